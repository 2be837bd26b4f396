# SPDX-License-Identifier: Apache-2.0
"""Measurements of the harness itself, against what else does its job."""
