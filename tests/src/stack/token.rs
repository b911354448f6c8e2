//! Keys of a stack in a SoftHSM2 token.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::{KeyType, programs};

/// Where Debian has the module.
pub const MODULE: &str = "/usr/lib/softhsm/libsofthsm2.so";

const PIN: &str = "24681357";

/// The `[[token]]` of a key server's configuration.
pub(super) fn table() -> String {
    format!(
        "[process]\nread_paths = [\"../softhsm2.conf\"]\nwrite_paths = [\"../tokens\"]\n\
         [[token]]\nname = \"hsm\"\nmodule = {MODULE:?}\nlabel = \"keystead\"\npin = {{ file = \"pin\" }}\n"
    )
}

/// The `private_key` of a key in the token.
pub(super) fn key(key_type: KeyType) -> String {
    format!("token = \"hsm\"\nobject_label = {:?}", key_type.name())
}

/// SoftHSM2's own configuration, below the stack's directory.
fn configuration(directory: &Path) -> PathBuf {
    directory.join("softhsm2.conf")
}

/// The key server that has its keys in the token.
pub(super) fn serve(config: &Path, directory: &Path) -> Command {
    let mut command = super::serve_by(programs::dynamic_command("keystead-keyserver"), config);
    show(&mut command, directory);
    command
}

/// Has a program find the token.
fn show(command: &mut Command, directory: &Path) {
    command.env("SOFTHSM2_CONF", configuration(directory));
}

/// Makes the token, and moves the keys into it: their files are gone.
pub(super) fn provide(directory: &Path, config: &Path, keys: &[KeyType]) {
    let tokens = directory.join("tokens");
    fs::create_dir(&tokens).expect("a directory");
    let text = format!("directories.tokendir = {}\n", tokens.display());
    fs::write(configuration(directory), text).expect("written");
    fs::write(directory.join("keyserver/pin"), PIN).expect("written");
    let mut make = Command::new("softhsm2-util");
    make.args(["--init-token", "--free", "--label", "keystead", "--so-pin", "1357", "--pin", PIN]);
    run(&mut make, directory);
    for key in keys {
        let file = directory.join(format!("keyserver/{}.key", key.stem()));
        let mut import = programs::dynamic_command("keystead-keyserver");
        import.args(["key", "import", "--token", "hsm", "--object-label", key.name()]);
        if matches!(key, KeyType::Rsa2048) {
            import.arg("--key-transport");
        }
        import.arg("--config").arg(config).arg("--in").arg(&file);
        run(&mut import, directory);
        fs::remove_file(&file).expect("removed");
    }
}

fn run(command: &mut Command, directory: &Path) {
    show(command, directory);
    let done = command.output().expect("the program starts");
    assert!(done.status.success(), "{command:?}: {}", String::from_utf8_lossy(&done.stderr));
}
