use super::*;

/// What PgBouncer's own table of rules asks of a reader, and what PostgreSQL's documentation says of the same lines.
const RULES: &str = "
  \t \t
 # a comment

local\tpeered\tall\t\t\tpeer
local   all     clear           password
local   open    guest           trust
local   salted  salty           scram-sha-256
local   all     all             md5

hostssl   all all 10.0.0.0/8 cert
hostnossl all all 11.0.0.0/8 md5
host      all all 127.0.0.0  255.255.255.0 password

host  one        all                    0.0.0.0/0   md5
host  all        ann                    15.0.0.0/8  md5
host  tmp,all    ann,bob , eve          16.0.0.0/8  md5
host  all        a,b,c,d,e,f,g,h,i,j,k,l 17.0.0.0/8 md5
host  a,b,c,d,e,f,g,h,i,j,k,l many      18.0.0.0/8  trust # behind it a comment

host  \"all\"    \"all\"                19.0.0.0/8  cert
host  \"q1\"\"q2\" \"a , b\"            19.0.0.0/8  cert

host  bits       ann                    199.199.199.199/32 cert
host  wide       ann                    128.0.0.0/3 trust
host  wide       ann                    128.0.0.0/2 md5
host  wide       ann                    128.0.0.0/1 cert

host  bits       ann                    ff11::/16   md5
host  bits       ann                    ff20::/12   password
host  bits       ann                    ::1/128     trust

host  any        ann                    all         scram-sha-256
host  none       ann                    all         reject

host  replication     admin             ::1/128     trust
host  two,replication backup            ::1/128     trust
host  sameuser        all               20.0.0.0/8  trust
host  all             replication       21.0.0.0/8  trust
host  all             all               22.0.2.0 255.0.255.0 trust";

fn no_files(_: &Path) -> io::Result<String> {
    Err(io::ErrorKind::NotFound.into())
}

fn read(text: &str) -> Parsed {
    let (maps, _) = IdentMaps::parse("staff ann app", &Place::file("ident"));
    parse(text, &Place::file("hba"), &maps, &no_files)
}

/// The method for `database user address`, where the address may be `unix`, and `tls` or `replication` may follow.
fn method(hba: &Hba, database: &str, user: &str, address: &str, more: &str) -> String {
    let access = Access {
        address: (address != "unix").then(|| address.parse().unwrap()),
        is_tls: more.contains("tls"),
        is_physical_replication: more.contains("replication"),
        database,
        user,
    };
    hba.find(&access).map_or("none".to_owned(), |rule| rule.method.to_string())
}

#[test]
fn the_first_line_that_matches_counts() {
    let Parsed { hba, errors, warnings } = read(RULES);
    assert!(errors.is_empty() && warnings.is_empty(), "{errors:?} {warnings:?}");
    let cases = [
        ("md5", "db", "ann", "unix", ""),
        ("peer", "peered", "ann", "unix", ""),
        ("password", "db", "clear", "unix", ""),
        ("trust", "open", "guest", "unix", ""),
        ("scram-sha-256", "salted", "salty", "unix", ""),
        ("cert", "db", "ann", "10.1.1.1", "tls"),
        ("none", "db", "ann", "10.1.1.1", ""),
        ("none", "db", "ann", "11.1.1.1", "tls"),
        ("md5", "db", "ann", "11.1.1.1", ""),
        ("none", "db", "ann", "13.1.1.1", ""),
        ("password", "db", "ann", "127.0.0.2", "tls"),
        ("password", "db", "ann", "127.0.0.3", ""),
        ("password", "db", "ann", "::ffff:127.0.0.3", ""),
        ("none", "db", "ann", "127.0.1.4", ""),
        ("none", "ones", "ann", "127.0.1.4", ""),
        ("md5", "one", "ann", "127.0.1.4", ""),
        ("none", "one", "ann", "face::1", ""),
        ("md5", "db", "ann", "15.0.0.1", ""),
        ("none", "db", "bob", "15.0.0.1", ""),
        ("none", "db", "guest", "16.0.0.1", ""),
        ("md5", "db", "ann", "16.0.0.1", ""),
        ("md5", "db", "bob", "16.0.0.1", ""),
        ("md5", "tmp", "eve", "16.0.0.1", ""),
        ("md5", "db", "a", "17.0.0.1", ""),
        ("md5", "db", "l", "17.0.0.1", ""),
        ("none", "db", "m", "17.0.0.1", ""),
        ("none", "a", "few", "18.0.0.2", ""),
        ("trust", "a", "many", "18.0.0.2", ""),
        ("trust", "l", "many", "18.0.0.2", ""),
        ("none", "m", "many", "18.0.0.2", ""),
        ("none", "db", "ann", "19.0.0.2", ""),
        ("cert", "all", "all", "19.0.0.2", ""),
        ("cert", "q1\"q2", "a , b", "19.0.0.2", ""),
        ("cert", "bits", "ann", "199.199.199.199", ""),
        ("none", "bits", "ann", "199.199.199.198", ""),
        ("none", "bits", "ann", "199.199.199.200", ""),
        ("trust", "wide", "ann", "159.1.1.1", ""),
        ("md5", "wide", "ann", "191.1.1.1", ""),
        ("cert", "wide", "ann", "254.1.1.1", ""),
        ("none", "wide", "ann", "127.1.1.1", ""),
        ("md5", "bits", "ann", "ff11:2::1", ""),
        ("password", "bits", "ann", "ff22:3::1", ""),
        ("none", "bits", "ann", "ff30::1", ""),
        ("trust", "bits", "ann", "::1", ""),
        ("none", "bits", "ann", "::2", ""),
        ("scram-sha-256", "any", "ann", "1.2.3.4", ""),
        ("scram-sha-256", "any", "ann", "face::1", ""),
        ("reject", "none", "ann", "1.2.3.4", ""),
        // Physical replication is of no database, and `all` does not mean it.
        ("none", "bits", "ann", "::1", "replication"),
        ("none", "db", "clear", "unix", "replication"),
        ("trust", "db", "admin", "::1", "replication"),
        ("trust", "replication", "admin", "::1", "replication"),
        ("none", "db", "admin", "::1", ""),
        ("none", "replication", "admin", "::1", ""),
        ("trust", "db", "backup", "::1", "replication"),
        ("trust", "two", "backup", "::1", ""),
        ("none", "replication", "backup", "::1", ""),
        ("trust", "ann", "ann", "20.0.0.1", ""),
        ("none", "ann", "bob", "20.0.0.1", ""),
        // In the column of users it is a name.
        ("trust", "db", "replication", "21.0.0.1", ""),
        ("trust", "db", "ann", "22.9.2.9", ""),
        ("none", "db", "ann", "22.9.3.9", ""),
    ];
    for (expected, database, user, address, more) in cases {
        let found = method(&hba, database, user, address, more);
        assert_eq!(found, expected, "{database} {user} {address} {more}");
    }
}

#[test]
fn names_may_be_in_files_of_their_own() {
    let files = |path: &Path| match path.to_str().unwrap() {
        "/etc/pooler/users" => Ok("# people\nann, bob\n\n\"all\" eve @more/users\n".to_owned()),
        "/etc/pooler/more/users" => Ok("joe @others".to_owned()),
        "/etc/pooler/more/others" => Ok("sue".to_owned()),
        "/etc/pooler/circle" => Ok("@circle".to_owned()),
        "/etc/pooler/bad" => Ok("ok\n\"open".to_owned()),
        _ => no_files(path),
    };
    let text = "local @/etc/pooler/users,d @users trust\nlocal @circle all trust\nlocal @nowhere all trust\nlocal all @bad trust";
    let Parsed { hba, errors, .. } = parse(text, &Place::file("/etc/pooler/hba.conf"), &IdentMaps::default(), &files);
    for user in ["ann", "bob", "all", "eve", "joe", "sue"] {
        assert_eq!(method(&hba, "d", user, "unix", ""), "trust", "{user}");
        assert_eq!(method(&hba, user, "ann", "unix", ""), "trust", "{user}");
    }
    assert_eq!(method(&hba, "d", "people", "unix", ""), "none");
    let errors: Vec<_> = errors.iter().map(ToString::to_string).collect();
    let expected = [
        "2: files name each other in a circle",
        "3: could not open \"/etc/pooler/nowhere\": entity not found",
        "4: /etc/pooler/bad:2: a quote is not closed",
    ];
    assert_eq!(errors, expected.map(|line| format!("/etc/pooler/hba.conf:{line}")));
}

#[test]
fn maps_are_found_at_once() {
    let Parsed { hba, errors, warnings } = read("local all all peer map=staff\nlocal all all md5 map=staff # so\n");
    assert!(errors.is_empty());
    assert!(hba.rules.iter().all(|rule| rule.map.as_ref().unwrap().allows("ann", "app")));
    let warnings: Vec<_> = warnings.iter().map(ToString::to_string).collect();
    assert_eq!(warnings, ["hba:2: map= has no effect with the method md5"]);
}

#[test]
fn every_line_that_cannot_be_used_is_named() {
    let cases = [
        ("hosts all all all md5", "unknown type \"hosts\", expected local, host, hostssl or hostnossl"),
        ("\"local\" all all md5", "unknown type \"local\", expected local, host, hostssl or hostnossl"),
        ("local", "a database expected"),
        ("local all", "a user expected"),
        ("local all,", "a database expected"),
        ("local all all", "a method expected"),
        ("local samerole all md5", "samerole is not supported"),
        ("local all +staff md5", "groups are not supported"),
        ("host all all md5", "\"md5\" is no address; names of hosts, samehost and samenet are not supported"),
        (
            "host all all db.example.org md5",
            "\"db.example.org\" is no address; names of hosts, samehost and samenet are not supported",
        ),
        ("host all all 10.0.0.0/33 md5", "invalid mask in \"10.0.0.0/33\""),
        ("host all all 10.0.0.0/ md5", "invalid mask in \"10.0.0.0/\""),
        ("host all all 10.0.0.0/+8 md5", "invalid mask in \"10.0.0.0/+8\""),
        ("host all all ::/129 md5", "invalid mask in \"::/129\""),
        ("host all all 10.0.0.0 md5", "invalid mask \"md5\""),
        ("host all all 10.0.0.0 ff00:: md5", "invalid mask \"ff00::\""),
        ("local all all ident", "unsupported method \"ident\""),
        ("local all all pam", "the method pam only works as auth_type"),
        ("local all all md5 clientcert=verify-full", "unsupported option \"clientcert=verify-full\", expected map="),
        ("local all all peer map=nobody", "the map \"nobody\" is not in the auth_ident_file"),
        ("local all all peer map=staff x", "nothing expected behind map="),
        ("local all \"all md5", "a quote is not closed"),
        ("local all \u{fffd} md5", "not in UTF-8"),
    ];
    let text: String = cases.iter().map(|(line, _)| format!("{line}\n")).collect();
    let Parsed { hba, errors, .. } = read(&text);
    assert_eq!(hba.rules, []);
    let told: Vec<_> = errors.iter().map(ToString::to_string).collect();
    let expected: Vec<_> = cases.iter().zip(1..).map(|((_, error), n)| format!("hba:{n}: {error}")).collect();
    assert_eq!(told, expected);
}

#[test]
fn an_address_beyond_its_mask_matches_nobody() {
    let Parsed { hba, warnings, .. } = read("host all all 10.0.0.1/8 trust");
    assert_eq!(warnings.len(), 1);
    assert_eq!(method(&hba, "d", "u", "10.0.0.1", ""), "none");
    let Parsed { hba, .. } = read("host all all 0.0.0.0/0 trust\nhost all all ::/0 md5");
    assert_eq!(method(&hba, "d", "u", "1.2.3.4", ""), "trust");
    assert_eq!(method(&hba, "d", "u", "face::", ""), "md5");
}

#[test]
#[cfg(feature = "ldap")]
fn options_of_ldap_are_read_and_their_password_is_not_shown() {
    let line = "host all all all ldap ldapserver=h \"ldapbindpasswd\"=hunter2 ,ldapbasedn=\"dc=x\" ldaptls=1 # comment";
    let Parsed { hba, errors, warnings } = read(line);
    assert!(errors.is_empty() && warnings.is_empty(), "{errors:?} {warnings:?}");
    let HbaMethod::Ldap(options) = &hba.rules[0].method else { panic!("not ldap") };
    assert_eq!((&*options.servers, options.port, options.is_start_tls), (&["h".to_owned()][..], 389, true));
    assert!(!format!("{hba:?}").contains("hunter2"));
    let Parsed { errors, warnings, .. } =
        read("local all all ldap\nlocal all all ldap ldapserver=h ldapbasedn=x ldapsearchfilter=a=b");
    assert_eq!(
        errors[0].to_string(),
        "hba:1: LDAP needs ldapserver, or a host in ldapurl; servers are not looked up in the DNS"
    );
    assert!(warnings[0].to_string().starts_with("hba:2: ldapsearchfilter is without $username"), "{warnings:?}");
}

#[test]
#[cfg(not(feature = "ldap"))]
fn ldap_is_refused_by_a_build_without_it() {
    let Parsed { errors, .. } = read("local all all ldap ldapserver=h ldapbasedn=x");
    assert_eq!(errors[0].to_string(), "hba:1: the method ldap is not in this build");
}
