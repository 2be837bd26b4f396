# SPDX-License-Identifier: Apache-2.0
"""Reports: results in, everything else out."""
