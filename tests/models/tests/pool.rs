//! Every order in which the threads of a model can run, up to so many changes of thread where none has to wait.

use pgweir_models::models;

/// A fourth costs ten times the time.
const PREEMPTIONS: usize = 3;

fn explore(model: fn()) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(PREEMPTIONS);
    builder.check(model);
}

macro_rules! models {
    ($($name:ident)*) => { $(
        #[test]
        fn $name() {
            explore(models::$name);
        }
    )* };
}

models! {
    clients_share_a_server
    a_client_goes_while_it_is_served
    a_cold_pool_grows_to_its_size_only
    a_login_fails_while_others_come
    a_pool_is_paused_and_resumed
    a_pool_shrinks_in_use
    places_and_servers_take_turns
    who_waits_is_not_overtaken
    tickets_are_of_one_order
    a_shared_limit_is_exact
}
