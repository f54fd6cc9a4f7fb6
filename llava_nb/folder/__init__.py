"""A folder of pictures becomes a table: `from llava_nb import caption_folder`."""
