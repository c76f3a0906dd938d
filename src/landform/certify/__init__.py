"""Certificates: what is proved about pattern versus loss, from saved weights alone."""

from landform.certify.certificate import Certificate
from landform.certify.check import certify

__all__ = ["Certificate", "certify"]
