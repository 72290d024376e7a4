"""What the Kafka handlers know of access: the words of robustmq.acls under one roof, and what they
ask of whoever keeps rules, credentials and quotas.
"""

from __future__ import annotations

from robustmq.acls import CLUSTER_NAME as CLUSTER_NAME
from robustmq.acls import Operation as Operation
from robustmq.acls import Resource as Resource
