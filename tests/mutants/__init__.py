# SPDX-License-Identifier: Apache-2.0
"""The observer, broken on purpose in one way at a time: each way has a check that must see it."""
