"""Models from elsewhere, timm, Hugging Face or anyone's module, made into ours.

`source.open_model` opens what a user names, `adopt.adopt` takes a module, `fusing.fused` re-parameterises.
"""
