"""From a trained network to files that devices run: ONNX and LiteRT, float32 and int8, in a bundle."""
