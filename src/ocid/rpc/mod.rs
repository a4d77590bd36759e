//! The edge: one file per RPC, protobuf in, domain inside, protobuf out.
