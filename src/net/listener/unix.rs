//! Listening on a Unix socket.

use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, chown};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::{fmt, fs, io};

use nix::unistd::Group;
use pgweir_config::Settings;
use socket2::{Domain, SockAddr, Socket, Type};

use super::failure::{Call, Failure};
use super::{ListenError, backlog};
use crate::log::log_at;

/// A Unix socket.
pub(crate) struct UnixSocket {
    pub(crate) listener: UnixListener,
    /// Where its file is, for us to remove; None: it has none, being abstract, or it is a service manager's.
    path: Option<PathBuf>,
    /// Goes when dropped. None: there is none to remove, or another process will.
    file: Option<SocketFile>,
}

impl UnixSocket {
    /// A socket that another process has made, whose file is its own for now.
    pub(super) fn of_another(listener: UnixListener, path: Option<PathBuf>) -> UnixSocket {
        UnixSocket { listener, path, file: None }
    }

    /// From now on it is for this process to remove the file.
    pub(crate) fn own_file(&mut self) {
        if self.file.is_none() {
            self.file = self.path.as_ref().and_then(|path| SocketFile::new(path).ok());
        }
    }

    /// From now on it is for another process.
    pub(crate) fn leave_file(&mut self) {
        self.file.iter_mut().for_each(|file| file.is_left = true);
        self.file = None;
    }
}

/// Where our Unix socket is.
pub(crate) struct UnixName {
    /// Directory and name of the socket; abstract if it begins with `@`, as libpq has it.
    path: PathBuf,
    is_abstract: bool,
    port: u16,
}

impl fmt::Display for UnixName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "unix:{}", self.path.display())
    }
}

impl UnixName {
    pub(crate) fn of(settings: &Settings) -> Option<UnixName> {
        let port = settings.listen_port;
        let dir = settings.unix_socket_dir.as_ref().filter(|dir| !dir.is_empty())?;
        let path = PathBuf::from(format!("{dir}/.s.PGSQL.{port}"));
        Some(UnixName { path, is_abstract: dir.starts_with('@'), port })
    }

    /// Where its file is; None: it is abstract.
    pub(super) fn path(&self) -> Option<&Path> {
        (!self.is_abstract).then_some(&self.path)
    }

    pub(crate) fn address(&self) -> io::Result<SockAddr> {
        if !self.is_abstract {
            return SockAddr::unix(&self.path);
        }
        SockAddr::unix(self.path.to_string_lossy().replacen('@', "\0", 1))
    }

    /// Fails if another process may use the socket; removes the file of one that is gone.
    pub(super) fn check_free(&self) -> Result<(), ListenError> {
        if self.is_answered() {
            return Err(ListenError::UnixInUse(self.to_string()));
        }
        if self.is_abstract {
            return Ok(());
        }
        let mut lock = self.path.clone().into_os_string();
        lock.push(".lock");
        if Path::new(&lock).symlink_metadata().is_ok() {
            return Err(ListenError::UnixLocked(self.port));
        }
        match self.path.symlink_metadata() {
            Ok(file) if !file.file_type().is_socket() => Err(ListenError::NotASocket(self.path.clone())),
            Ok(_) => {
                // If it cannot be removed, bind says so.
                let _ = fs::remove_file(&self.path);
                Ok(())
            }
            Err(_) => Ok(()),
        }
    }

    /// Whether a process accepts connections there. Its queue may be full, or the socket not for us to use.
    fn is_answered(&self) -> bool {
        let connect = || {
            let socket = Socket::new(Domain::UNIX, Type::STREAM.nonblocking(), None)?;
            socket.connect(&self.address()?)
        };
        match connect() {
            Ok(()) => true,
            Err(error) => {
                matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::PermissionDenied)
            }
        }
    }

    pub(super) fn bind(&self, settings: &Settings) -> Result<UnixSocket, ListenError> {
        match self.try_bind(settings) {
            Ok(socket) => {
                log_at!(Log, "listening on {self}");
                Ok(socket)
            }
            Err(failure) => {
                log_at!(Warning, "cannot listen on {self}: {failure}");
                Err(ListenError::Unix)
            }
        }
    }

    fn try_bind(&self, settings: &Settings) -> Result<UnixSocket, Failure> {
        let socket = Socket::new(Domain::UNIX, Type::STREAM.nonblocking(), None).of("socket")?;
        socket.bind(&self.address().of("bind")?).of("bind")?;
        let file = self.path().map(|path| SocketFile::new(path).of("stat")).transpose()?;
        file.iter().try_for_each(|file| file.set_access(settings))?;
        // Only now: nobody can connect with the permissions that the file was made with.
        socket.listen(backlog(settings)).of("listen")?;
        Ok(UnixSocket { listener: socket.into(), path: self.path().map(Path::to_owned), file })
    }
}

/// The file of our Unix socket. Removed when dropped, unless another process has put its own in place.
struct SocketFile {
    path: PathBuf,
    /// Device and inode, to know it again.
    id: (u64, u64),
    /// Another process has it now.
    is_left: bool,
}

impl SocketFile {
    fn new(path: &Path) -> io::Result<SocketFile> {
        let id = SocketFile::id(path)?;
        Ok(SocketFile { path: path.to_owned(), id, is_left: false })
    }

    fn id(path: &Path) -> io::Result<(u64, u64)> {
        let file = path.symlink_metadata()?;
        Ok((file.dev(), file.ino()))
    }

    fn set_access(&self, settings: &Settings) -> Result<(), Failure> {
        if let Some(group) = settings.unix_socket_group.as_ref().filter(|group| !group.is_empty()) {
            chown(&self.path, None, Some(group_id(group)?)).of("chown")?;
        }
        let mode = fs::Permissions::from_mode(settings.unix_socket_mode);
        fs::set_permissions(&self.path, mode).of("chmod")
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if !self.is_left && SocketFile::id(&self.path).is_ok_and(|id| id == self.id) {
            // Nobody is left to be told of a failure, and the next start removes it.
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// A group by its name, or by its number as PgBouncer also takes it.
fn group_id(group: &str) -> Result<u32, Failure> {
    if let Ok(number) = group.parse() {
        return Ok(number);
    }
    let not_found = || io::Error::other(format!("could not find group '{group}'"));
    match Group::from_name(group).of("getgrnam")? {
        Some(group) => Ok(group.gid.as_raw()),
        None => Err(not_found()).of("getgrnam"),
    }
}
