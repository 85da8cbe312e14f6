"""The drawer behind the source ``drawn``: one file a kind of thing, ``scene`` puts them into one picture.

::

    geometry     outlines: points in, points out
    canvas       an outline and a paint -> pixels, smooth at the edge, shaded like something round
    textures     grass, sand, brick, ...: what a ground or a wall is made of
    surroundings ground, wall, light and clutter around an object
    fish, bird, car, mushroom, teapot    one object each, in any of its poses
    clip_art     what is no photograph at all
    scene        objects + surroundings + camera -> picture and mask
"""
