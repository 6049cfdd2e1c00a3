use std::fs;

use super::*;

fn resolved(dsn: &str, env: &[(&str, &str)]) -> Result<Conninfo, Failure> {
    let env = |name: &str| env.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned());
    Conninfo::resolve(Some(dsn), None, &env, &mut |_| ())
}

#[test]
fn the_string_comes_before_the_environment() {
    let env = [("PGHOST", "env"), ("PGPORT", "5433"), ("PGUSER", "envuser"), ("PGPASSWORD", "envpw")];
    let conninfo = resolved("host=h user=u", &env).unwrap();
    assert_eq!(conninfo.to_string(), "u at h:5433 as u");
    assert_eq!(conninfo.password().map(Secret::expose), Some("envpw"));
    let conninfo = resolved("postgres://a,b:1/d?target_session_attrs=primary", &env).unwrap();
    assert_eq!(conninfo.to_string(), "d at a:5432,b:1 as envuser");
    assert_eq!(conninfo.target_session, TargetSession::Primary);
}

#[test]
fn lists_of_hosts() {
    let addresses = |dsn: &str| resolved(dsn, &[("PGUSER", "u")]).map(|c| c.to_string()).map_err(|e| e.message);
    assert_eq!(addresses("host=a,b port=1"), Ok("u at a:1,b:1 as u".to_owned()));
    assert_eq!(addresses("host=a,b port=1,2"), Ok("u at a:1,b:2 as u".to_owned()));
    assert_eq!(addresses("host=a,/run port=,2"), Ok("u at a:5432,/run:2 as u".to_owned()));
    assert_eq!(addresses("hostaddr=::1"), Ok("u at [::1]:5432 as u".to_owned()));
    assert_eq!(addresses("host=a,b port=1,2,3"), Err("could not match 3 port numbers to 2 hosts".to_owned()));
    assert_eq!(addresses("host=a hostaddr=::1,::2"), Err("could not match 2 hostaddr values to 1 hosts".to_owned()));
    assert_eq!(addresses("host=a port=0"), Err("invalid port number: \"0\"".to_owned()));
    assert_eq!(addresses("nonsense=1"), Err("invalid connection option \"nonsense\"".to_owned()));
    assert_eq!(addresses("sslcrl=f"), Err("the connection option \"sslcrl\" is not supported".to_owned()));
}

#[test]
fn tls_as_libpq_means_it() {
    let tls = |dsn: &str| {
        let env = [("PGUSER", "u"), ("HOME", "/nowhere")];
        resolved(dsn, &env).map(|c| (c.sslmode, c.sslrootcert)).map_err(|e| e.message)
    };
    assert_eq!(tls("host=h"), Ok((SslMode::Prefer, RootCertificates::None)));
    assert_eq!(tls("sslrootcert=system"), Ok((SslMode::VerifyFull, RootCertificates::System)));
    assert!(tls("sslrootcert=system sslmode=require").unwrap_err().starts_with("weak sslmode"));
    assert_eq!(tls("sslmode=require sslrootcert=/nowhere/r"), Ok((SslMode::Require, RootCertificates::None)));
    let named = RootCertificates::File("/nowhere/r".into());
    assert_eq!(tls("sslmode=verify-ca sslrootcert=/nowhere/r"), Ok((SslMode::VerifyCa, named)));
    assert!(tls("sslmode=sometimes").is_err());
    assert!(tls("sslnegotiation=direct").unwrap_err().starts_with("weak sslmode \"prefer\""));
}

#[test]
fn services_and_password_files() {
    use std::os::unix::fs::PermissionsExt;
    let dir = std::env::temp_dir().join(format!("pgweir-conninfo-{}", std::process::id()));
    fs::create_dir_all(&dir).unwrap();
    let path = |name: &str| dir.join(name).display().to_string();
    fs::write(path("services"), "[prod]\nhost=db\nport=6000\nuser=svc\n").unwrap();
    fs::write(path("pgpass"), "db:6000:*:svc:stored\n").unwrap();
    fs::set_permissions(path("pgpass"), fs::Permissions::from_mode(0o600)).unwrap();
    let (services, pgpass) = (path("services"), path("pgpass"));
    let env = [("PGSERVICEFILE", services.as_str()), ("PGPASSFILE", pgpass.as_str()), ("PGPORT", "1")];
    let conninfo = resolved("service=prod dbname=d", &env).unwrap();
    assert_eq!(conninfo.to_string(), "d at db:6000 as svc");
    assert_eq!(conninfo.password().map(Secret::expose), Some("stored"));
    assert!(!format!("{conninfo:?}").contains("stored"));
    assert_eq!(resolved("service=x", &env).unwrap_err().message, "definition of service \"x\" not found");
    fs::remove_dir_all(dir).unwrap();
}

#[test]
fn an_entry_of_the_pooler() {
    let mut config = Config::default();
    let mut database = Database::new("shop");
    database.hosts = vec![HostAddr::parse("db1"), HostAddr::parse("db2")];
    (database.port, database.dbname) = (5433, Some("shop_v2".into()));
    (database.user, database.password) = (Some("own".into()), Some(Secret::new("ownpw")));
    config.databases.insert("shop".into(), database.into());
    let mut userlist = pgweir_config::Userlist::default();
    userlist.insert("boss", UserSecret::parse("bosspw"));
    config.userlist = userlist.into();
    let told = |dsn: Option<&str>, name: &str| {
        let env = |name: &str| (name == "PGHOST").then(|| "elsewhere".to_owned());
        let conninfo = Conninfo::resolve(dsn, Some(Entry { config: &config, name }), &env, &mut |_| ());
        conninfo.map(|c| (c.to_string(), c.password().map(|p| p.expose().to_owned()))).map_err(|e| e.message)
    };
    let at = "shop_v2 at db1:5433,db2:5433 as ";
    assert_eq!(told(None, "shop"), Ok((format!("{at}own"), Some("ownpw".into()))));
    assert_eq!(told(Some("user=boss"), "shop"), Ok((format!("{at}boss"), Some("bosspw".into()))));
    assert_eq!(told(Some("user=other"), "shop"), Ok((format!("{at}other"), None)));
    assert_eq!(told(None, "none"), Err("there is no database \"none\" in the configuration".to_owned()));
}
