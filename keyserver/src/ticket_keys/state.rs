//! The file that holds the cluster's ticket secret: of the oldest generation whose tickets are still to be opened.
//!
//! ```toml
//! version = 1
//! rotation_period_s = 3600
//! generation = 494472
//! secret = "64 hexadecimal digits"
//! ```

use std::io;
use std::path::{Path, PathBuf};

use rand_core::CryptoRng;
use zeroize::Zeroizing;

use super::ratchet::{Ratchet, RotationPeriod, UnixTime};
use super::secret::GenerationSecret;
use crate::private_file;

/// What the file says.
#[derive(Debug)]
pub struct State {
    pub(super) period: RotationPeriod,
    pub(super) oldest: u64,
    pub(super) secret: GenerationSecret,
}

/// Above every Unix time in seconds, and low enough to count in.
const MOST_GENERATIONS: u64 = u32::MAX as u64;
const VERSION: u64 = 1;

/// Draws a secret and writes it into `file`, which must not exist.
///
/// # Errors
/// [`StateError`] when there is a file, and when the file cannot be written.
pub fn create(file: &Path, period: RotationPeriod, now: UnixTime, rng: &mut dyn CryptoRng) -> Result<(), StateError> {
    let oldest = period.generation_at(now).saturating_sub(1);
    let text = text(period, oldest, &GenerationSecret::draw(rng));
    private_file::create(file, text.as_bytes()).map_err(|cause| {
        let file = file.to_owned();
        let exists = cause.kind() == io::ErrorKind::AlreadyExists;
        if exists { StateError::Exists { file } } else { StateError::Unwritable { file, cause } }
    })
}

/// Puts what `ratchet` needs after a restart in the place of what is in `file`.
///
/// # Errors
/// [`StateError::Unwritable`]; then the file is what it was.
pub fn replace(file: &Path, ratchet: &Ratchet) -> Result<(), StateError> {
    let (oldest, secret) = ratchet.oldest();
    let text = text(ratchet.period(), oldest, secret);
    private_file::replace(file, text.as_bytes())
        .map_err(|cause| StateError::Unwritable { file: file.to_owned(), cause })
}

/// Reads `file`.
///
/// # Errors
/// [`StateError`] when it cannot be read, or says anything but a state.
pub fn read(file: &Path) -> Result<State, StateError> {
    let text = std::fs::read_to_string(file).map(Zeroizing::new).map_err(|cause| {
        let file = file.to_owned();
        let is_missing = cause.kind() == io::ErrorKind::NotFound;
        if is_missing { StateError::Missing { file } } else { StateError::Unreadable { file, cause } }
    })?;
    parse(&text).map_err(|cause| StateError::Malformed { file: file.to_owned(), cause })
}

fn text(period: RotationPeriod, oldest: u64, secret: &GenerationSecret) -> Zeroizing<String> {
    // Long enough that the text is not moved while it grows, which would leave a copy behind.
    let mut text = Zeroizing::new(String::with_capacity(1024));
    text.push_str(
        "# The ticket secret of a Keystead cluster: every key server has a copy. Whoever reads it can open the\n",
    );
    text.push_str(
        "# tickets of this generation and of all that follow. `keystead-keyserver` replaces it at each rotation.\n",
    );
    text.push_str(&format!("version = {VERSION}\nrotation_period_s = {}\n", period.seconds()));
    text.push_str(&format!("generation = {oldest}\nsecret = \""));
    for byte in secret.expose() {
        for digit in [byte >> 4, byte & 15] {
            text.extend(char::from_digit(digit.into(), 16));
        }
    }
    text.push_str("\"\n");
    text
}

/// By hand, so that no library's message or buffer ever holds the secret.
fn parse(text: &str) -> Result<State, MalformedState> {
    let (mut version, mut period, mut oldest, mut secret) = (None, None, None, None);
    for (line, number) in text.lines().zip(1..) {
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let (name, value) = line.split_once(" = ").ok_or(MalformedState::Line(number))?;
        let is_first = match name {
            "version" => version.replace(count(value)).is_none(),
            "rotation_period_s" => period.replace(count(value).and_then(RotationPeriod::of_seconds)).is_none(),
            "generation" => oldest.replace(count(value).filter(|count| *count <= MOST_GENERATIONS)).is_none(),
            "secret" => secret.replace(hexadecimal(value)).is_none(),
            _ => return Err(MalformedState::Line(number)),
        };
        if !is_first {
            return Err(MalformedState::Twice(number));
        }
    }
    let missing = MalformedState::Missing;
    let invalid = MalformedState::Invalid;
    if version.ok_or(missing("version"))?.ok_or(invalid("version"))? != VERSION {
        return Err(MalformedState::Version);
    }
    Ok(State {
        period: period.ok_or(missing("rotation_period_s"))?.ok_or(invalid("rotation_period_s"))?,
        oldest: oldest.ok_or(missing("generation"))?.ok_or(invalid("generation"))?,
        secret: secret.ok_or(missing("secret"))?.ok_or(invalid("secret"))?,
    })
}

fn count(value: &str) -> Option<u64> {
    value.bytes().all(|byte| byte.is_ascii_digit()).then(|| value.parse().ok())?
}

fn hexadecimal(value: &str) -> Option<GenerationSecret> {
    let digits = value.strip_prefix('"')?.strip_suffix('"')?.as_bytes();
    let (pairs, rest) = digits.as_chunks::<2>();
    let mut bytes = Zeroizing::new([0; GenerationSecret::LENGTH]);
    if pairs.len() != bytes.len() || !rest.is_empty() {
        return None;
    }
    for (byte, [high, low]) in bytes.iter_mut().zip(pairs) {
        *byte = (digit(*high)? << 4) | digit(*low)?;
    }
    Some(GenerationSecret::take(&mut bytes))
}

fn digit(character: u8) -> Option<u8> {
    match character {
        b'0'..=b'9' => Some(character - b'0'),
        b'a'..=b'f' => Some(character - b'a' + 10),
        _ => None,
    }
}

/// Why a file with a ticket secret cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// There is none.
    #[error(
        "{}: there is no ticket secret; make it with `keystead-keyserver init --state FILE` on one key server and copy it \
         to the others, or copy it from one that has it", file.display()
    )]
    Missing {
        /// Where it should be.
        file: PathBuf,
    },
    /// There is one already.
    #[error(
        "{}: there is a ticket secret already, which is left as it is; remove the file first if every ticket of the \
         cluster shall end", file.display()
    )]
    Exists {
        /// Where it is.
        file: PathBuf,
    },
    /// It cannot be read.
    #[error("{}: {cause}", file.display())]
    Unreadable {
        /// The file.
        file: PathBuf,
        /// The system's reason.
        cause: io::Error,
    },
    /// It cannot be written.
    #[error("{}: cannot write: {cause}", file.display())]
    Unwritable {
        /// The file.
        file: PathBuf,
        /// The system's reason.
        cause: io::Error,
    },
    /// It says something else.
    #[error("{}: {cause}; copy the file from another key server", file.display())]
    Malformed {
        /// The file.
        file: PathBuf,
        /// What is wrong with it.
        cause: MalformedState,
    },
}

/// What is wrong with the content of a file. Nothing of it is repeated here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MalformedState {
    /// A line that says nothing known.
    #[error("line {0} has no place in a ticket secret's file")]
    Line(usize),
    /// A line that says what an earlier one says.
    #[error("line {0} says again what stands above")]
    Twice(usize),
    /// A line is not there.
    #[error("there is no {0}: the file is not whole")]
    Missing(&'static str),
    /// A line says what cannot be.
    #[error("{0} is not what it can be")]
    Invalid(&'static str),
    /// The file is of another version.
    #[error("the version is not 1, the one this program knows")]
    Version,
}
