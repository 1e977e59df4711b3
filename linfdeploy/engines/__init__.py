# SPDX-License-Identifier: Apache-2.0
"""Engines: one interface, `Engine.run(images) -> logits`; one file a backend; `reference` is the bit-exact one."""
