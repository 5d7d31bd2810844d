"""The live page at `/` of the HTTP port: what the models save just now, and a box to try them."""
