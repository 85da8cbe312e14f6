"""What leaves the house and comes back: exports, cards, manifests, attribution, rebuilds, forgotten images."""
