"""Messages of gRPC's health checking. Generated from health.proto by scripts/generate-proto."""

from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClassesForFiles

_POOL = DescriptorPool()
_POOL.AddSerializedFile(
    b'\n\x0chealth.proto\x12\x0egrpc.health.v1".\n\x12HealthCheckReq'
    b'uest\x12\x18\n\x07service\x18\x01 \x01(\tR\x07service"\xb1\x01\n\x13HealthCheckRe'
    b'sponse\x12I\n\x06status\x18\x01 \x01(\x0e21.grpc.health.v1.HealthCh'
    b'eckResponse.ServingStatusR\x06status"O\n\rServingStat'
    b'us\x12\x0b\n\x07UNKNOWN\x10\x00\x12\x0b\n\x07SERVING\x10\x01\x12\x0f\n\x0bNOT_SERVING\x10\x02\x12\x13\n'
    b'\x0fSERVICE_UNKNOWN\x10\x032Z\n\x06Health\x12P\n\x05Check\x12".grpc.hea'
    b'lth.v1.HealthCheckRequest\x1a#.grpc.health.v1.Healt'
    b'hCheckResponseb\x06proto3'
)
DESCRIPTOR = _POOL.FindFileByName("health.proto")
for _name, _class in GetMessageClassesForFiles([DESCRIPTOR.name], _POOL).items():
    globals()[_name.removeprefix(DESCRIPTOR.package + ".")] = _class
