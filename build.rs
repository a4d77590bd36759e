//! Compiles `proto/` with a pure-Rust compiler, so that neither `protoc` nor cmake is needed.

use std::error::Error;

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=proto/runtime.proto");
    println!("cargo:rerun-if-changed=build.rs");
    let descriptors = protox::compile(["proto/runtime.proto"], ["proto"])?;
    tonic_prost_build::configure()
        .extern_path(
            ".runtime.v1.ListPodSandboxMetricsResponse",
            "crate::cri::metrics::ListPodSandboxMetricsResponse",
        )
        // The JSON that users of CRI write: the proto's own snake_case names, numbers for enums,
        // absent fields at their defaults.
        .message_attribute(".", "#[derive(serde::Serialize, serde::Deserialize)]")
        .message_attribute(".", "#[serde(default)]")
        .field_attribute(
            ".runtime.v1.KeyValue.value",
            "#[serde(with = \"crate::cri::text\")]",
        )
        .field_attribute(
            ".runtime.v1.ExecSyncResponse.stdout",
            "#[serde(with = \"crate::cri::text\")]",
        )
        .field_attribute(
            ".runtime.v1.ExecSyncResponse.stderr",
            "#[serde(with = \"crate::cri::text\")]",
        )
        // The names in configs that are not snake_case stand in JSON as they are.
        .field_attribute(
            ".runtime.v1.Mount.uidMappings",
            "#[serde(rename = \"uidMappings\")]",
        )
        .field_attribute(
            ".runtime.v1.Mount.gidMappings",
            "#[serde(rename = \"gidMappings\")]",
        )
        .field_attribute(
            ".runtime.v1.ContainerConfig.CDI_devices",
            "#[serde(rename = \"CDI_devices\")]",
        )
        .compile_fds(descriptors)?;
    Ok(())
}
