"""What a verifier raises where it cannot follow a network."""


class ProofError(Exception):
    """The weights do not have the form that the proof covers, or are too many; the message says where."""
