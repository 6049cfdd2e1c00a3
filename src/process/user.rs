//! The system user to run as.

use std::ffi::CString;
use std::{fmt, io};

use nix::errno::Errno;
use nix::unistd::{User, getegid, geteuid, getuid, initgroups, setgid, setuid};

#[derive(Debug)]
pub(crate) enum UserError {
    Unknown(String),
    /// We are not root, or the system does not let root do it.
    Failed {
        user: String,
        error: io::Error,
    },
    /// Root without a user to become.
    Root,
}

impl fmt::Display for UserError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            UserError::Unknown(user) => write!(f, "could not find user '{user}' to switch to"),
            UserError::Failed { user, error } => {
                write!(f, "failed to assume identity of user '{user}': {error}")
            }
            UserError::Root => write!(f, "pgweir should not run as root (name a user with -u or the setting \"user\")"),
        }
    }
}

impl std::error::Error for UserError {}

/// Becomes `name`, if given, and for good; fails if that leaves us root. To be called before there are threads.
pub(crate) fn switch_user(name: Option<&str>) -> Result<(), UserError> {
    if let Some(name) = name {
        let user = User::from_name(name).ok().flatten();
        let user = user.ok_or_else(|| UserError::Unknown(name.to_owned()))?;
        assume(&user).map_err(|error| UserError::Failed { user: name.to_owned(), error: error.into() })?;
    }
    if getuid().is_root() || geteuid().is_root() { Err(UserError::Root) } else { Ok(()) }
}

fn assume(user: &User) -> Result<(), Errno> {
    if getuid() == user.uid && geteuid() == user.uid && !getuid().is_root() {
        return Ok(());
    }
    // A name that came from the system's own list has no NUL.
    let name = CString::new(user.name.as_str()).map_err(|_| Errno::EINVAL)?;
    initgroups(&name, user.gid)?;
    setgid(user.gid)?;
    setuid(user.uid)?;
    if getuid() != user.uid || geteuid() != user.uid || getegid() != user.gid {
        return Err(Errno::EPERM);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_user_is_an_error() {
        let error = switch_user(Some("no-such-user")).unwrap_err().to_string();
        assert_eq!(error, "could not find user 'no-such-user' to switch to");
    }

    /// The switch itself is for good, so here is only what changes nothing.
    #[test]
    fn our_own_user_will_do_unless_root() {
        let own = User::from_uid(getuid()).unwrap().unwrap().name;
        for name in [None, Some(own.as_str())] {
            let result = switch_user(name);
            assert_eq!(matches!(result, Err(UserError::Root)), getuid().is_root());
            assert_eq!(result.is_ok(), !getuid().is_root());
        }
    }
}
