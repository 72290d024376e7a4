"""Schema tables: records, log directories, reassignments, configuration resources and the
quorum. The notation is in robustmq.kafka.schema."""

TABLE = """
DeleteRecordsRequest
  topics: [DeleteRecordsTopic]
    name: string
    partitions: [DeleteRecordsPartition]
      partition_index: int32
      offset: int64
  timeout_ms: int32
DeleteRecordsResponse
  throttle_time_ms: int32
  topics: [DeleteRecordsTopicResult]
    name: string
    partitions: [DeleteRecordsPartitionResult]
      partition_index: int32
      low_watermark: int64
      error_code: int16

AlterReplicaLogDirsRequest
  dirs: [AlterReplicaLogDir]
    path: string
    topics: [AlterReplicaLogDirTopic]
      name: string
      partitions: [int32]
AlterReplicaLogDirsResponse
  throttle_time_ms: int32
  results: [AlterReplicaLogDirTopicResult]
    topic_name: string
    partitions: [AlterReplicaLogDirPartitionResult]
      partition_index: int32
      error_code: int16

DescribeLogDirsRequest
  topics: [DescribableLogDirTopic]?
    topic: string
    partitions: [int32]
DescribeLogDirsResponse
  throttle_time_ms: int32
  error_code: int16 @3+
  results: [DescribeLogDirsResult]
    error_code: int16
    log_dir: string
    topics: [DescribeLogDirsTopic]
      name: string
      partitions: [DescribeLogDirsPartition]
        partition_index: int32
        partition_size: int64
        offset_lag: int64
        is_future_key: bool
    total_bytes: int64 @4+ = -1
    usable_bytes: int64 @4+ = -1
    is_cordoned: bool @5+

ElectLeadersRequest
  election_type: int8 @1+
  topic_partitions: [TopicPartitions]?
    topic: string
    partitions: [int32]
  timeout_ms: int32 = 60000
ElectLeadersResponse
  throttle_time_ms: int32
  error_code: int16 @1+
  replica_election_results: [ReplicaElectionResult]
    topic: string
    partition_result: [PartitionResult]
      partition_id: int32
      error_code: int16
      error_message: string?

AlterPartitionReassignmentsRequest
  timeout_ms: int32 = 60000
  allow_replication_factor_change: bool @1+ = true
  topics: [ReassignableTopic]
    name: string
    partitions: [ReassignablePartition]
      partition_index: int32
      replicas: [int32]? = null
AlterPartitionReassignmentsResponse
  throttle_time_ms: int32
  allow_replication_factor_change: bool @1+ = true
  error_code: int16
  error_message: string?
  responses: [ReassignableTopicResponse]
    name: string
    partitions: [ReassignablePartitionResponse]
      partition_index: int32
      error_code: int16
      error_message: string?

ListPartitionReassignmentsRequest
  timeout_ms: int32 = 60000
  topics: [ListPartitionReassignmentsTopics]? = null
    name: string
    partition_indexes: [int32]
ListPartitionReassignmentsResponse
  throttle_time_ms: int32
  error_code: int16
  error_message: string?
  topics: [OngoingTopicReassignment]
    name: string
    partitions: [OngoingPartitionReassignment]
      partition_index: int32
      replicas: [int32]
      adding_replicas: [int32]
      removing_replicas: [int32]

DescribeQuorumRequest
  topics: [DescribeQuorumTopicData]
    topic_name: string
    partitions: [DescribeQuorumPartitionData]
      partition_index: int32
DescribeQuorumResponse
  error_code: int16
  error_message: string? @2+
  topics: [DescribeQuorumTopicState]
    topic_name: string
    partitions: [DescribeQuorumPartitionState]
      partition_index: int32
      error_code: int16
      error_message: string? @2+
      leader_id: int32
      leader_epoch: int32
      high_watermark: int64
      current_voters: [DescribeQuorumReplicaState]
        replica_id: int32
        replica_directory_id: uuid @2+
        log_end_offset: int64
        last_fetch_timestamp: int64 @1+ = -1
        last_caught_up_timestamp: int64 @1+ = -1
      observers: [DescribeQuorumReplicaState]
        replica_id: int32
        replica_directory_id: uuid @2+
        log_end_offset: int64
        last_fetch_timestamp: int64 @1+ = -1
        last_caught_up_timestamp: int64 @1+ = -1
  nodes: [Node] @2+
    node_id: int32
    listeners: [Listener]
      name: string
      host: string
      port: uint16

UpdateFeaturesRequest
  timeout_ms: int32 = 60000
  feature_updates: [FeatureUpdateKey]
    feature: string
    max_version_level: int16
    upgrade_type: int8 @1+ = 1
    allow_downgrade: bool @0-0
  validate_only: bool @1+
UpdateFeaturesResponse
  throttle_time_ms: int32
  error_code: int16
  error_message: string?
  results: [UpdatableFeatureResult] @0-1
    feature: string
    error_code: int16
    error_message: string?

UnregisterBrokerRequest
  broker_id: int32
UnregisterBrokerResponse
  throttle_time_ms: int32
  error_code: int16
  error_message: string?

ListConfigResourcesRequest
  resource_types: [int8] @1+
ListConfigResourcesResponse
  throttle_time_ms: int32
  error_code: int16
  config_resources: [ConfigResource]
    resource_name: string
    resource_type: int8 @1+ = 16

DescribeTopicPartitionsRequest
  topics: [DescribeTopicPartitionsTopicRequest]
    name: string
  response_partition_limit: int32 = 2000
  cursor: Cursor?
    topic_name: string
    partition_index: int32
DescribeTopicPartitionsResponse
  throttle_time_ms: int32
  topics: [DescribeTopicPartitionsResponseTopic]
    error_code: int16
    name: string?
    topic_id: uuid
    is_internal: bool
    partitions: [DescribeTopicPartitionsResponsePartition]
      error_code: int16
      partition_index: int32
      leader_id: int32
      leader_epoch: int32 = -1
      replica_nodes: [int32]
      isr_nodes: [int32]
      eligible_leader_replicas: [int32]? = null
      last_known_elr: [int32]? = null
      offline_replicas: [int32]
    topic_authorized_operations: int32 = -2147483648
  next_cursor: Cursor?
    topic_name: string
    partition_index: int32
"""
