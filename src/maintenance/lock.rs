//! One job per database at a time.

use super::exit::Failure;
use super::job::Job;
use super::options::Limits;
use super::rows::row;
use super::server::Server;
use super::units::span_text;

/// The first key of our advisory locks ("pgwr"); the second is 0. They are of the database that they are taken in.
pub(super) const CLASS: i32 = 0x7067_7772;

row! {
    /// Who has the lock.
    Holder {
        pid: i32,
        application_name: String,
        age_s: f64,
    }
}

/// The right to change a database, kept by a session that does nothing else. It ends with the session, so also when this
/// process is killed.
pub(crate) struct JobLock {
    server: Server,
}

impl JobLock {
    /// Takes the lock of the database that `server` is connected to, or says who has it. A dry run takes none.
    ///
    /// A restore that puts one database in another's place takes both databases' locks, and gives the old one's up for the
    /// moment of the renaming, which needs a database without sessions.
    pub(crate) async fn take(job: &Job, server: &Server) -> Result<Option<JobLock>, Failure> {
        if job.is_dry_run() {
            return Ok(None);
        }
        let lock = JobLock { server: job.connect_to(&server.here(), Limits::NONE).await? };
        if lock.server.value("select pg_try_advisory_lock($1, 0)", &[&CLASS]).await? {
            return Ok(Some(lock));
        }
        let holders: Vec<Holder> = lock.server.rows(HOLDERS, &[&CLASS]).await?;
        let who: Vec<String> = holders
            .iter()
            .map(|holder| {
                let Holder { pid, application_name, age_s } = holder;
                format!("{application_name} (process {pid}, for {})", span_text(age_s.round()))
            })
            .collect();
        let database = &server.conninfo.dbname;
        let who = if who.is_empty() { "somebody".to_owned() } else { who.join(", ") };
        Err(Failure::locked(format!("another job is at work on {database}: {who}")))
    }

    /// The process of the session that holds it.
    pub(crate) fn backend_pid(&self) -> i32 {
        self.server.backend_pid
    }

    /// Fails when the session that holds the lock is gone, and so perhaps the lock is somebody else's: to be asked between
    /// steps of a long job.
    pub(crate) async fn check(&self) -> Result<(), Failure> {
        let alive = self.server.value::<i32>("select 1", &[]).await;
        alive.map(|_| ()).map_err(|failure| failure.while_at("the session that held the job's lock is gone"))
    }
}

const HOLDERS: &str = "
    select l.pid, coalesce(a.application_name, '') as application_name,
           coalesce(extract(epoch from clock_timestamp() - a.backend_start), 0)::float8 as age_s
    from pg_locks l left join pg_stat_activity a on a.pid = l.pid
    where l.locktype = 'advisory' and l.classid = $1::int4::oid and l.objid = 0 and l.objsubid = 2 and l.granted
      and l.database = (select oid from pg_database where datname = current_database())";
