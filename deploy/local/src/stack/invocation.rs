//! A program with its arguments, to start and to print.
use std::ffi::OsString;
use std::fmt;
use std::path::{Path, PathBuf};

/// A program with its arguments; shown as a line for a shell.
#[derive(Clone, Debug)]
pub(super) struct Invocation {
    pub(super) program: PathBuf,
    pub(super) arguments: Vec<OsString>,
}

impl Invocation {
    /// `program serve --config configuration`.
    pub(super) fn serve(program: &Path, configuration: &Path) -> Self {
        let arguments = vec!["serve".into(), "--config".into(), configuration.into()];
        Self { program: program.to_owned(), arguments }
    }
}

impl fmt::Display for Invocation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&quoted(&self.program))?;
        self.arguments.iter().try_for_each(|argument| write!(f, " {}", quoted(Path::new(argument))))
    }
}

/// The argument as a shell takes it.
pub(super) fn quoted(argument: &Path) -> String {
    let text = argument.display().to_string();
    let plain = text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_./:".contains(&byte));
    if plain && !text.is_empty() { text } else { format!("'{}'", text.replace('\'', r"'\''")) }
}
