//! The tables as diesel sees them; `migrations/` makes them and says what their columns hold.

diesel::table! {
    pipelines (name) {
        name -> Text,
        definition -> Text,
        definition_hash -> Text,
        revision -> BigInt,
        first_seen_at -> BigInt,
        changed_at -> BigInt,
        added -> Text,
    }
}

diesel::table! {
    checkpoints (pipeline) {
        pipeline -> Text,
        stream -> Text,
        epoch -> BigInt,
        writer -> BigInt,
        commits -> BigInt,
        journal_id -> BigInt,
        position -> BigInt,
        watermark -> Nullable<BigInt>,
        silence_ms -> BigInt,
        first_position -> BigInt,
        first_ingest_time -> BigInt,
        read -> BigInt,
        made -> BigInt,
        filtered -> BigInt,
        aggregated -> BigInt,
        late -> BigInt,
        dead -> BigInt,
        exploded -> BigInt,
        skipped -> BigInt,
        partly_late -> BigInt,
        letter_bytes -> BigInt,
        letters_discarded -> BigInt,
        replay_number -> BigInt,
        kept_upto -> Nullable<BigInt>,
        kept_position -> BigInt,
    }
}

diesel::table! {
    window_results (pipeline, window_start, window_end, group_hash) {
        pipeline -> Text,
        window_start -> BigInt,
        window_end -> BigInt,
        group_hash -> Binary,
        group_key -> Binary,
        group_values -> Text,
        result_values -> Text,
        events -> BigInt,
        other -> Bool,
        partial -> Bool,
        revised_at -> Nullable<BigInt>,
        revision -> BigInt,
        state -> Binary,
    }
}

diesel::table! {
    pane_states (pipeline, pane_start, group_hash) {
        pipeline -> Text,
        pane_start -> BigInt,
        group_hash -> Binary,
        group_key -> Binary,
        state -> Binary,
    }
}

diesel::table! {
    dead_letters (stream, position, pipeline) {
        stream -> Text,
        position -> BigInt,
        pipeline -> Text,
        line -> Binary,
        kind -> Text,
        stage -> Text,
        reason -> Text,
        producer -> Nullable<Text>,
        peer -> Nullable<Text>,
        attempts -> BigInt,
        failed_at -> BigInt,
        replayed_at -> Nullable<BigInt>,
        ingested_at -> BigInt,
        replay_number -> Nullable<BigInt>,
    }
}

diesel::table! {
    alerts (pipeline, alert, group_hash, fired_at) {
        pipeline -> Text,
        alert -> Text,
        group_hash -> Binary,
        fired_at -> BigInt,
        window_start -> BigInt,
        window_end -> BigInt,
        group_values -> Text,
        result_values -> Text,
        resolved_at -> Nullable<BigInt>,
        untold -> BigInt,
    }
}

diesel::table! {
    alert_conditions (pipeline, alert, group_hash) {
        pipeline -> Text,
        alert -> Text,
        group_hash -> Binary,
        since -> BigInt,
        fired -> Bool,
    }
}

diesel::allow_tables_to_appear_in_same_query!(pipelines, checkpoints);
