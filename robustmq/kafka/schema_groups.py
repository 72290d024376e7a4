"""Schema tables: groups and their committed offsets. The notation is in robustmq.kafka.schema."""

TABLE = """
FindCoordinatorRequest
  key: string @0-3
  key_type: int8 @1+
  coordinator_keys: [string] @4+
FindCoordinatorResponse
  throttle_time_ms: int32 @1+
  coordinators: [Coordinator] @4+
    key: string
    node_id: int32
    host: string
    port: int32
    error_code: int16
    error_message: string?
  error_code: int16 @0-3
  error_message: string? @1-3
  node_id: int32 @0-3
  host: string @0-3
  port: int32 @0-3

JoinGroupRequest
  group_id: string
  session_timeout_ms: int32
  rebalance_timeout_ms: int32 @1+ = -1
  member_id: string
  group_instance_id: string? @5+ = null
  protocol_type: string
  protocols: [JoinGroupRequestProtocol]
    name: string
    metadata: bytes
  reason: string? @8+ = null
JoinGroupResponse
  throttle_time_ms: int32 @2+
  error_code: int16
  generation_id: int32 = -1
  protocol_type: string? @7+ = null
  protocol_name: string?7+
  leader: string
  skip_assignment: bool @9+
  member_id: string
  members: [JoinGroupResponseMember]
    member_id: string
    group_instance_id: string? @5+ = null
    metadata: bytes

SyncGroupRequest
  group_id: string
  generation_id: int32
  member_id: string
  group_instance_id: string? @3+ = null
  protocol_type: string? @5+ = null
  protocol_name: string? @5+ = null
  assignments: [SyncGroupRequestAssignment]
    member_id: string
    assignment: bytes
SyncGroupResponse
  throttle_time_ms: int32 @1+
  error_code: int16
  protocol_type: string? @5+ = null
  protocol_name: string? @5+ = null
  assignment: bytes

HeartbeatRequest
  group_id: string
  generation_id: int32
  member_id: string
  group_instance_id: string? @3+ = null
HeartbeatResponse
  throttle_time_ms: int32 @1+
  error_code: int16

LeaveGroupRequest
  group_id: string
  members: [MemberIdentity] @3+
    member_id: string
    group_instance_id: string? = null
    reason: string? @5+ = null
  member_id: string @0-2
LeaveGroupResponse
  throttle_time_ms: int32 @1+
  error_code: int16
  members: [MemberResponse] @3+
    member_id: string
    group_instance_id: string?
    error_code: int16

OffsetCommitRequest
  group_id: string
  generation_id_or_member_epoch: int32 = -1
  member_id: string
  group_instance_id: string? @7+ = null
  retention_time_ms: int64 @2-4 = -1
  topics: [OffsetCommitRequestTopic]
    topic_id: uuid @10+
    name: string @2-9
    partitions: [OffsetCommitRequestPartition]
      partition_index: int32
      committed_offset: int64
      committed_leader_epoch: int32 @6+ = -1
      committed_metadata: string?
OffsetCommitResponse
  throttle_time_ms: int32 @3+
  topics: [OffsetCommitResponseTopic]
    topic_id: uuid @10+
    name: string @2-9
    partitions: [OffsetCommitResponsePartition]
      partition_index: int32
      error_code: int16

OffsetFetchRequest
  groups: [OffsetFetchRequestGroup] @8+
    group_id: string
    member_id: string? @9+ = null
    member_epoch: int32 @9+ = -1
    topics: [OffsetFetchRequestTopics]?
      topic_id: uuid @10+
      name: string @8-9
      partition_indexes: [int32]
  group_id: string @1-7
  topics: [OffsetFetchRequestTopic]?2+ @1-7
    name: string
    partition_indexes: [int32]
  require_stable: bool @7+
OffsetFetchResponse
  throttle_time_ms: int32 @3+
  groups: [OffsetFetchResponseGroup] @8+
    group_id: string
    topics: [OffsetFetchResponseTopics]
      topic_id: uuid @10+
      name: string @8-9
      partitions: [OffsetFetchResponsePartitions]
        partition_index: int32
        committed_offset: int64
        committed_leader_epoch: int32 = -1
        metadata: string?
        error_code: int16
    error_code: int16
  topics: [OffsetFetchResponseTopic] @1-7
    name: string
    partitions: [OffsetFetchResponsePartition]
      partition_index: int32
      committed_offset: int64
      committed_leader_epoch: int32 @5-7 = -1
      metadata: string?
      error_code: int16
  error_code: int16 @2-7

OffsetDeleteRequest
  group_id: string
  topics: [OffsetDeleteRequestTopic]
    name: string
    partitions: [OffsetDeleteRequestPartition]
      partition_index: int32
OffsetDeleteResponse
  error_code: int16
  throttle_time_ms: int32
  topics: [OffsetDeleteResponseTopic]
    name: string
    partitions: [OffsetDeleteResponsePartition]
      partition_index: int32
      error_code: int16

DescribeGroupsRequest
  groups: [string]
  include_authorized_operations: bool @3+
DescribeGroupsResponse
  throttle_time_ms: int32 @1+
  groups: [DescribedGroup]
    error_code: int16
    error_message: string? @6+ = null
    group_id: string
    group_state: string
    protocol_type: string
    protocol_data: string
    members: [DescribedGroupMember]
      member_id: string
      group_instance_id: string? @4+ = null
      client_id: string
      client_host: string
      member_metadata: bytes
      member_assignment: bytes
    authorized_operations: int32 @3+ = -2147483648

ListGroupsRequest
  states_filter: [string] @4+
  types_filter: [string] @5+
ListGroupsResponse
  throttle_time_ms: int32 @1+
  error_code: int16
  groups: [ListedGroup]
    group_id: string
    protocol_type: string
    group_state: string @4+
    group_type: string @5+

DeleteGroupsRequest
  groups_names: [string]
DeleteGroupsResponse
  throttle_time_ms: int32
  results: [DeletableGroupResult]
    group_id: string
    error_code: int16
"""
