//! What belongs to a database and not to its content: a dump does not have it, so the new database gets it from the old one.

use crate::maintenance::exit::Failure;
use crate::maintenance::rows::row;
use crate::maintenance::server::Server;

row! {
    Statement {
        sql: String,
    }
}

/// Owner, privileges, connection limit, settings, also those of roles in it, and comment.
pub(super) async fn statements(server: &Server, old: &str, new: &str) -> Result<Vec<String>, Failure> {
    let rows: Vec<Statement> = server.rows(STATEMENTS, &[&old, &new]).await?;
    Ok(rows.into_iter().map(|row| row.sql).collect())
}

/// The owner first, because privileges are granted by it. Settings that are lists of names are stored as a list of quoted names,
/// and have to be given as one.
const STATEMENTS: &str = r#"
    with d as (select * from pg_database where datname = $1),
    setting as (
        select s.setrole, c.n, split_part(c.text, '=', 1) as name, substr(c.text, strpos(c.text, '=') + 1) as value
        from pg_db_role_setting s join d on d.oid = s.setdatabase, unnest(s.setconfig) with ordinality c(text, n)),
    given as (
        select setrole, n, name, case when name in ('local_preload_libraries', 'search_path', 'session_preload_libraries',
                                                 'shared_preload_libraries', 'temp_tablespaces', 'unix_socket_directories')
                   then coalesce((select string_agg(quote_literal(coalesce(replace(m[1], '""', '"'), m[2])), ', ' order by n)
                                  from regexp_matches(value, '"((?:[^"]|"")*)"|([^,\s"]+)', 'g') with ordinality r(m, n)),
                                 '''''')
                   else quote_literal(value) end as value
        from setting)
    select sql from (
        select 1 as step, 0 as n, format('ALTER DATABASE %I OWNER TO %I', $2::text, pg_get_userbyid(datdba)) as sql from d
        union all
        select 2, 0, format('REVOKE ALL ON DATABASE %I FROM PUBLIC, %I', $2, pg_get_userbyid(datdba))
        from d where datacl is not null
        union all
        select 3, 0, format('GRANT %s ON DATABASE %I TO %s%s', string_agg(privilege_type, ', ' order by privilege_type), $2,
                         case when grantee = 0 then 'PUBLIC' else quote_ident(pg_get_userbyid(grantee)) end,
                         case when is_grantable then ' WITH GRANT OPTION' else '' end)
        from d, aclexplode(d.datacl) group by grantee, is_grantable
        union all
        select 4, 0, format('ALTER DATABASE %I CONNECTION LIMIT %s', $2, datconnlimit) from d where datconnlimit <> -1
        union all
        select 5, 0, format('ALTER DATABASE %I IS_TEMPLATE true', $2) from d where datistemplate
        union all
        select 6, n, case when setrole = 0 then format('ALTER DATABASE %I SET %I TO %s', $2, name, value)
                       else format('ALTER ROLE %I IN DATABASE %I SET %I TO %s', pg_get_userbyid(setrole), $2, name, value) end
        from given
        union all
        select 7, 0, format('COMMENT ON DATABASE %I IS %L', $2, shobj_description(oid, 'pg_database')) from d) s
    order by step, n, sql"#;
