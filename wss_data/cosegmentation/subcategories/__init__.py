"""The engine ``subcategories``: Chen, Shrivastava and Gupta (CVPR 2014), one module a stage.

In order: ``edges`` (S1, seed box), ``exemplars`` (S2), ``detect`` (S3), ``top`` (S4), ``link`` (S5), ``merge`` (S6 and
S7), ``joint_cut`` (S8), ``subcategory_detector`` (S9), ``transfer`` (S10), ``segment`` (S11). ``boxes``, ``hog`` and
``mixture`` serve several stages, ``settings`` holds the numbers, ``engine`` runs the stages over a group.

Source:
    Chen, Shrivastava and Gupta, *Enriching Visual Knowledge Bases via Object Discovery and Segmentation*, CVPR 2014,
    as the authors' public code computes it. Where we depart: ``docs/explanation/subcategories.md``.
"""
