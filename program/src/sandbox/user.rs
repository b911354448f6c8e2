//! Root given up for another user.

use std::ffi::CString;

use nix::errno::Errno;
use nix::unistd::{Uid, User, initgroups, setgid, setuid};

/// Why the program did not become another user.
#[derive(Debug, thiserror::Error)]
pub enum UserError {
    /// There is no such user.
    #[error("[process] user = \"{0}\": there is no such user; make it with `useradd --system {0}`")]
    Unknown(String),
    /// The system refuses.
    #[error("[process] user = \"{name}\": {cause}")]
    Refused {
        /// The user.
        name: String,
        /// Its reason.
        cause: Errno,
    },
    /// The program is neither root nor that user.
    #[error("[process] user = \"{0}\": only root can become another user; start the program as root or as {0}")]
    NotRoot(String),
}

/// Becomes the user `name` with its groups, for good. Does nothing for a program that is that user.
///
/// # Errors
/// [`UserError`].
pub fn become_user(name: &str) -> Result<(), UserError> {
    let refused = |cause| UserError::Refused { name: name.to_owned(), cause };
    let user = User::from_name(name).map_err(refused)?.ok_or_else(|| UserError::Unknown(name.to_owned()))?;
    if user.uid == Uid::effective() {
        return Ok(());
    }
    if !Uid::effective().is_root() {
        return Err(UserError::NotRoot(name.to_owned()));
    }
    let c_name = CString::new(name).map_err(|_| UserError::Unknown(name.to_owned()))?;
    initgroups(&c_name, user.gid).map_err(refused)?;
    setgid(user.gid).map_err(refused)?;
    // Of all user ids, so that there is no way back; the kernel takes root's capabilities with it (capabilities(7)).
    setuid(user.uid).map_err(refused)
}
