"""The engine ``subcategories``: Chen, Shrivastava and Gupta (CVPR 2014), one module a stage.

In order: ``edges`` (S1, seed box), ``exemplars`` (S2 and S9, templates), ``detect`` (S3), ``top`` (S4), ``merge`` (S5
to S7), ``joint_cut`` (S8), ``transfer`` (S10), ``segment`` (S11). ``boxes``, ``hog`` and ``mixture`` serve several
stages, ``settings`` holds what a user may set, ``engine`` runs the stages over a group.

Source:
    Chen, Shrivastava and Gupta, *Enriching Visual Knowledge Bases via Object Discovery and Segmentation*, CVPR 2014,
    as the authors' public code computes it. That is the source of every function and number here that names no other;
    "ours" marks a departure. Where we depart, and why: ``docs/explanation/subcategories.md``.
"""
