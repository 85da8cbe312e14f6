"""Names and bounds that are needed without the types, which take longer to load than a help text may."""

BACKGROUND = "background"  # Name of index 0: of its images' label and folder, where a definition searches for them
MAX_CLASSES = 254  # Masks are 8 bit: 0 is background and 255 ignore

DEFINITION_FILE = "definition.yaml"  # In a dataset's folder: the definition that was made from class names

LONGEST_NAME = 200  # Characters of a name: it becomes a folder's with others behind it, and no disk takes more than 255

# Images that each of them is asked for, for each class, where a definition is made from class names alone
DEFAULT_LIMIT = 300
