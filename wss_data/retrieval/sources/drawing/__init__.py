"""The drawer behind the source ``drawn``: canvas -> textures, things -> scene -> an image and its true mask."""
