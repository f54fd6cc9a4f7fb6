"""The upload-and-prompt panel: `from llava_nb import caption_panel`."""
