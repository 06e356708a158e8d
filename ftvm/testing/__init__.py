"""Public conformance kits: does your guest, transport, arbiter or engine keep its contract?"""

from ftvm.testing.arbiter import check_arbiter
from ftvm.testing.contract import ContractBroken
from ftvm.testing.transport import check_transport

__all__ = ["ContractBroken", "check_arbiter", "check_transport"]
