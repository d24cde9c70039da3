# SPDX-License-Identifier: Apache-2.0
"""The helpers are those of tests/e2e and tests/crash; the programs here run as they do by hand."""
