"""Public conformance kits: does your guest, transport, arbiter or engine keep its contract?"""
