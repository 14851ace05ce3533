"""The parts, each alone: listener, perceiver, speech language model, expressive decoder, vocoder."""
