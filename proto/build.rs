//! Compiles the `.proto` files with protox, so that no protoc is needed.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo::rerun-if-changed=keystead");
    let files = protox::compile(["keystead/v1/key_server.proto"], ["."])?;
    // Messages that hold secrets have a Debug of their own.
    tonic_prost_build::configure().skip_debug(["TicketKey", "RecoverMasterSecretReply"]).compile_fds(files)?;
    Ok(())
}
