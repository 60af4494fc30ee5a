"""What every product says: typed, frozen, strict documents, their kinds and names. Depends on no other room.

Add a document here when a product gets a new file or new facts; what the values mean and how they
are computed belongs to the room that makes the product.
"""
