"""The padding convention: index 0 of the item table is padding and belongs to no item; histories are padded on the left."""

PADDING = 0
