//! Compiles `proto/` without a `protoc` on the machine.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let root = "../../proto";
    println!("cargo:rerun-if-changed={root}");
    let contracts = [
        "parley/notification/v1/notification.proto",
        "parley/session/v1/session.proto",
        "parley/transcription/v1/transcription.proto",
    ];
    let files = protox::compile(contracts, [root])?;
    tonic_prost_build::configure().bytes(".").compile_fds(files)?;
    Ok(())
}
