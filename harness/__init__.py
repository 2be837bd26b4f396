# SPDX-License-Identifier: Apache-2.0
"""Kernel-matrix harness: one CO-RE object, every kernel, one report."""
