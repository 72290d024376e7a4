"""Schema tables: authentication, access rules, tokens, quotas and telemetry. The notation is in
robustmq.kafka.schema."""

TABLE = """
SaslHandshakeRequest
  mechanism: string
SaslHandshakeResponse
  error_code: int16
  mechanisms: [string]

SaslAuthenticateRequest
  auth_bytes: bytes
SaslAuthenticateResponse
  error_code: int16
  error_message: string?
  auth_bytes: bytes
  session_lifetime_ms: int64 @1+

DescribeAclsRequest
  resource_type_filter: int8
  resource_name_filter: string?
  pattern_type_filter: int8 = 3
  principal_filter: string?
  host_filter: string?
  operation: int8
  permission_type: int8
DescribeAclsResponse
  throttle_time_ms: int32
  error_code: int16
  error_message: string?
  resources: [DescribeAclsResource]
    resource_type: int8
    resource_name: string
    pattern_type: int8 = 3
    acls: [AclDescription]
      principal: string
      host: string
      operation: int8
      permission_type: int8

CreateAclsRequest
  creations: [AclCreation]
    resource_type: int8
    resource_name: string
    resource_pattern_type: int8 = 3
    principal: string
    host: string
    operation: int8
    permission_type: int8
CreateAclsResponse
  throttle_time_ms: int32
  results: [AclCreationResult]
    error_code: int16
    error_message: string?

DeleteAclsRequest
  filters: [DeleteAclsFilter]
    resource_type_filter: int8
    resource_name_filter: string?
    pattern_type_filter: int8 = 3
    principal_filter: string?
    host_filter: string?
    operation: int8
    permission_type: int8
DeleteAclsResponse
  throttle_time_ms: int32
  filter_results: [DeleteAclsFilterResult]
    error_code: int16
    error_message: string?
    matching_acls: [DeleteAclsMatchingAcl]
      error_code: int16
      error_message: string?
      resource_type: int8
      resource_name: string
      pattern_type: int8 = 3
      principal: string
      host: string
      operation: int8
      permission_type: int8

CreateDelegationTokenRequest
  owner_principal_type: string? @3+
  owner_principal_name: string? @3+
  renewers: [CreatableRenewers]
    principal_type: string
    principal_name: string
  max_lifetime_ms: int64
CreateDelegationTokenResponse
  error_code: int16
  principal_type: string
  principal_name: string
  token_requester_principal_type: string @3+
  token_requester_principal_name: string @3+
  issue_timestamp_ms: int64
  expiry_timestamp_ms: int64
  max_timestamp_ms: int64
  token_id: string
  hmac: bytes
  throttle_time_ms: int32

RenewDelegationTokenRequest
  hmac: bytes
  renew_period_ms: int64
RenewDelegationTokenResponse
  error_code: int16
  expiry_timestamp_ms: int64
  throttle_time_ms: int32

ExpireDelegationTokenRequest
  hmac: bytes
  expiry_time_period_ms: int64
ExpireDelegationTokenResponse
  error_code: int16
  expiry_timestamp_ms: int64
  throttle_time_ms: int32

DescribeDelegationTokenRequest
  owners: [DescribeDelegationTokenOwner]?
    principal_type: string
    principal_name: string
DescribeDelegationTokenResponse
  error_code: int16
  tokens: [DescribedDelegationToken]
    principal_type: string
    principal_name: string
    token_requester_principal_type: string @3+
    token_requester_principal_name: string @3+
    issue_timestamp: int64
    expiry_timestamp: int64
    max_timestamp: int64
    token_id: string
    hmac: bytes
    renewers: [DescribedDelegationTokenRenewer]
      principal_type: string
      principal_name: string
  throttle_time_ms: int32

DescribeClientQuotasRequest
  components: [ComponentData]
    entity_type: string
    match_type: int8
    match: string?
  strict: bool
DescribeClientQuotasResponse
  throttle_time_ms: int32
  error_code: int16
  error_message: string?
  entries: [EntryData]?
    entity: [EntityData]
      entity_type: string
      entity_name: string?
    values: [ValueData]
      key: string
      value: float64

AlterClientQuotasRequest
  entries: [AlterClientQuotasEntryData]
    entity: [EntityData]
      entity_type: string
      entity_name: string?
    ops: [OpData]
      key: string
      value: float64
      remove: bool
  validate_only: bool
AlterClientQuotasResponse
  throttle_time_ms: int32
  entries: [AlterClientQuotasEntryResult]
    error_code: int16
    error_message: string?
    entity: [EntityData]
      entity_type: string
      entity_name: string?

DescribeUserScramCredentialsRequest
  users: [UserName]?
    name: string
DescribeUserScramCredentialsResponse
  throttle_time_ms: int32
  error_code: int16
  error_message: string?
  results: [DescribeUserScramCredentialsResult]
    user: string
    error_code: int16
    error_message: string?
    credential_infos: [CredentialInfo]
      mechanism: int8
      iterations: int32

AlterUserScramCredentialsRequest
  deletions: [ScramCredentialDeletion]
    name: string
    mechanism: int8
  upsertions: [ScramCredentialUpsertion]
    name: string
    mechanism: int8
    iterations: int32
    salt: bytes
    salted_password: bytes
AlterUserScramCredentialsResponse
  throttle_time_ms: int32
  results: [AlterUserScramCredentialsResult]
    user: string
    error_code: int16
    error_message: string?

GetTelemetrySubscriptionsRequest
  client_instance_id: uuid
GetTelemetrySubscriptionsResponse
  throttle_time_ms: int32
  error_code: int16
  client_instance_id: uuid
  subscription_id: int32
  accepted_compression_types: [int8]
  push_interval_ms: int32
  telemetry_max_bytes: int32
  delta_temporality: bool
  requested_metrics: [string]

PushTelemetryRequest
  client_instance_id: uuid
  subscription_id: int32
  terminating: bool
  compression_type: int8
  metrics: bytes
PushTelemetryResponse
  throttle_time_ms: int32
  error_code: int16
"""
