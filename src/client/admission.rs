//! How many connections there may be whose users have not proved yet who they are: in all
//! (`max_client_logins`) and from one address (`max_client_logins_per_address`).
//!
//! A connection takes a place when it is accepted. Beyond the limits there is a reserve, whose
//! places are for the console, for `admin_users` and for cancel requests; what such a connection
//! has come for shows when it has sent its startup packet. Beyond the reserve it is turned away
//! as it is accepted. A Unix socket is always served as if from the reserve: who may use it is for
//! its permissions to say, and it is the operator's way in.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use pgweir_config::Settings;
use pgweir_proto::client_error::ClientError;
use tokio::runtime::Handle;

use super::throttle::Throttle;
use crate::registry::Ends;

/// Places beyond the limits.
const RESERVE: u32 = 32;

/// Of an IPv6 address, what one user has: a network of 64 bits.
const IPV6_NETWORK: u128 = !0 << 64;

/// All connections that are not past their login.
#[derive(Debug)]
pub(crate) struct Admission {
    /// Locked for a look-up or two: at the beginning and at the end of a login.
    counts: Mutex<Counts>,
    refusals: Arc<Throttle>,
}

#[derive(Debug, Default)]
struct Counts {
    ordinary: u32,
    reserved: u32,
    /// The ordinary ones by address, while there is a limit for that.
    by_address: HashMap<IpAddr, u32>,
}

/// Where a connection comes from.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Source {
    Unix,
    Address(IpAddr),
    /// The PROXY header will tell.
    Balancer,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Seat {
    Ordinary {
        /// What it counts as in `by_address`; `None`: it does not.
        address: Option<IpAddr>,
    },
    Reserved,
    /// Not counted: over the Unix socket, beyond the limit.
    Extra,
}

/// A connection's place, given back when dropped.
#[derive(Debug)]
pub(crate) struct LoginPlace {
    admission: Arc<Admission>,
    seat: Seat,
    source: Source,
}

impl Admission {
    pub(crate) fn new(control: Handle) -> Arc<Admission> {
        Arc::new(Admission { counts: Mutex::default(), refusals: Throttle::new(control) })
    }

    fn counts(&self) -> MutexGuard<'_, Counts> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives a place to a new connection, if there is one for it.
    pub(crate) fn admit(self: &Arc<Self>, settings: &Settings, source: Source) -> Result<LoginPlace, ClientError> {
        let seat = self.counts().admit(settings, source)?;
        Ok(LoginPlace { admission: Arc::clone(self), seat, source })
    }

    /// Tells the operator of a connection that was turned away for want of a place.
    pub(crate) fn report(&self, error: &ClientError, ends: &Ends) {
        self.refusals.warn(format_args!("connection from {ends} refused: {}", error.message()));
    }
}

impl Counts {
    fn admit(&mut self, settings: &Settings, source: Source) -> Result<Seat, ClientError> {
        let error = match self.take_ordinary(settings, source) {
            Ok(seat) => return Ok(seat),
            Err(error) => error,
        };
        if matches!(source, Source::Unix) {
            return Ok(Seat::Extra);
        }
        if self.reserved >= RESERVE {
            return Err(error);
        }
        self.reserved += 1;
        Ok(Seat::Reserved)
    }

    fn take_ordinary(&mut self, settings: &Settings, source: Source) -> Result<Seat, ClientError> {
        let is_reached = |count: u32, limit: u32| limit > 0 && count >= limit;
        if is_reached(self.ordinary, settings.max_client_logins.unwrap_or(settings.max_client_conn)) {
            return Err(ClientError::TooManyLogins);
        }
        let per_address = settings.max_client_logins_per_address;
        let address = match source {
            Source::Address(address) if per_address > 0 => Some(counted_as(address)),
            _ => None,
        };
        if let Some(address) = address {
            let count = self.by_address.entry(address).or_default();
            if is_reached(*count, per_address) {
                return Err(ClientError::TooManyAddressLogins);
            }
            *count += 1;
        }
        self.ordinary += 1;
        Ok(Seat::Ordinary { address })
    }

    fn give_back(&mut self, seat: Seat) {
        match seat {
            Seat::Ordinary { address } => {
                self.ordinary -= 1;
                let Some(address) = address else { return };
                if let Some(count) = self.by_address.get_mut(&address) {
                    *count -= 1;
                    if *count == 0 {
                        self.by_address.remove(&address);
                    }
                }
            }
            Seat::Reserved => self.reserved -= 1,
            Seat::Extra => {}
        }
    }
}

/// The addresses that count as this one.
fn counted_as(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() & IPV6_NETWORK)),
        v4 => v4,
    }
}

impl LoginPlace {
    /// The PROXY header has told where the connection comes from, which may be beyond a limit.
    pub(crate) fn set_address(&mut self, settings: &Settings, address: IpAddr) -> Result<(), ClientError> {
        self.source = Source::Address(address);
        let mut counts = self.admission.counts();
        counts.give_back(self.seat);
        // Until the next line is through.
        self.seat = Seat::Extra;
        self.seat = counts.admit(settings, self.source)?;
        Ok(())
    }

    /// The connection is for none of those whom the reserve is for.
    pub(crate) fn needs_ordinary(&mut self, settings: &Settings) -> Result<(), ClientError> {
        if matches!(self.seat, Seat::Ordinary { .. }) {
            return Ok(());
        }
        // One may have become free meanwhile.
        let mut counts = self.admission.counts();
        let seat = counts.take_ordinary(settings, self.source)?;
        counts.give_back(self.seat);
        self.seat = seat;
        Ok(())
    }
}

impl Drop for LoginPlace {
    fn drop(&mut self) {
        self.admission.counts().give_back(self.seat);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(logins: u32, per_address: u32) -> Settings {
        Settings { max_client_logins: Some(logins), max_client_logins_per_address: per_address, ..Settings::default() }
    }

    fn from(address: &str) -> Source {
        Source::Address(address.parse().unwrap())
    }

    async fn admission() -> Arc<Admission> {
        Admission::new(Handle::current())
    }

    fn assert_empty(admission: &Admission) {
        let counts = admission.counts();
        assert_eq!((counts.ordinary, counts.reserved, counts.by_address.len()), (0, 0, 0));
    }

    #[tokio::test]
    async fn beyond_the_limit_is_a_reserve_and_beyond_that_nothing() {
        let (admission, settings) = (admission().await, settings(2, 0));
        let admit = |source| admission.admit(&settings, source);
        let mut places: Vec<LoginPlace> =
            (0..2 + RESERVE).map(|_| admit(from("192.0.2.1")).expect("a place")).collect();
        assert_eq!(admit(from("192.0.2.1")).err(), Some(ClientError::TooManyLogins));
        assert_eq!(admit(Source::Balancer).err(), Some(ClientError::TooManyLogins));
        assert!(places[1].needs_ordinary(&settings).is_ok());
        assert_eq!(places[2].needs_ordinary(&settings).err(), Some(ClientError::TooManyLogins));
        let mut local = admit(Source::Unix).expect("the operator's way in");
        assert_eq!(local.needs_ordinary(&settings).err(), Some(ClientError::TooManyLogins));
        // An ordinary place becomes free, for whoever needs it first.
        places.remove(0);
        assert!(local.needs_ordinary(&settings).is_ok());
        drop(local);
        assert!(places[5].needs_ordinary(&settings).is_ok());
        assert!(admit(from("192.0.2.1")).is_ok(), "there is room in the reserve again");
        drop(places);
        assert_empty(&admission);
    }

    #[tokio::test]
    async fn addresses_have_limits_of_their_own() {
        let (admission, settings) = (admission().await, settings(0, 1));
        let admit = |source| admission.admit(&settings, source).expect("a place");
        let is_ordinary = |mut place: LoginPlace| {
            let checked = place.needs_ordinary(&settings);
            assert!(matches!(checked, Ok(()) | Err(ClientError::TooManyAddressLogins)));
            checked.is_ok()
        };
        let _places =
            [admit(from("192.0.2.1")), admit(from("2001:db8:0:1::1")), admit(Source::Unix), admit(Source::Unix)];
        assert!(!is_ordinary(admit(from("192.0.2.1"))));
        assert!(!is_ordinary(admit(from("::ffff:192.0.2.1"))));
        assert!(is_ordinary(admit(from("192.0.2.2"))));
        assert!(!is_ordinary(admit(from("2001:db8:0:1:ffff::2"))));
        assert!(is_ordinary(admit(from("2001:db8:0:2::1"))));
        drop(_places);
        assert_empty(&admission);
    }

    #[tokio::test]
    async fn behind_a_balancer_the_client_s_address_counts() {
        let (admission, settings) = (admission().await, settings(0, 1));
        let admit = |address: &str| {
            let mut place = admission.admit(&settings, Source::Balancer).expect("a place");
            place.set_address(&settings, address.parse().unwrap()).map(|()| place)
        };
        let first = admit("192.0.2.1").expect("a place");
        let mut second = admit("192.0.2.1").expect("a place in the reserve");
        assert_eq!(second.needs_ordinary(&settings), Err(ClientError::TooManyAddressLogins));
        assert!(admit("192.0.2.2").expect("a place").needs_ordinary(&settings).is_ok());
        let reserve: Vec<_> = (1..RESERVE).map(|_| admit("192.0.2.1").expect("a place in the reserve")).collect();
        assert_eq!(admit("192.0.2.1").err(), Some(ClientError::TooManyAddressLogins));
        drop((first, second, reserve));
        assert_empty(&admission);
    }

    #[tokio::test]
    async fn without_a_number_max_client_conn_counts_and_0_is_no_limit() {
        let admission = admission().await;
        let mut settings = Settings { max_client_conn: 1, ..Settings::default() };
        let _first = admission.admit(&settings, Source::Balancer).expect("a place");
        let mut second = admission.admit(&settings, Source::Balancer).expect("a place");
        assert_eq!(second.needs_ordinary(&settings), Err(ClientError::TooManyLogins));
        settings.max_client_logins = Some(0);
        assert!(second.needs_ordinary(&settings).is_ok());
    }
}
