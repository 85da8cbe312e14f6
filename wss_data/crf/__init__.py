"""Fully connected CRF with Gaussian edges, by mean field on a permutohedral lattice."""
