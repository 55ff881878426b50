CREATE FUNCTION public.audit_is_append_only() RETURNS trigger
    LANGUAGE plpgsql
    AS $$
    BEGIN
        IF TG_OP = 'DELETE' THEN
            IF OLD.at < now() - interval '7 days' THEN
                RETURN OLD;
            END IF;
        END IF;
        RAISE EXCEPTION 'the audit is append-only' USING ERRCODE = 'insufficient_privilege';
    END
    $$;
CREATE TABLE public.alembic_version (
    version_num character varying(32) NOT NULL
);
CREATE TABLE public.audit (
    id bigint NOT NULL,
    at timestamp with time zone NOT NULL,
    event text NOT NULL,
    subject bytea,
    address bytea,
    count bigint NOT NULL,
    previous bytea NOT NULL,
    hash bytea NOT NULL,
    CONSTRAINT audit_count_check CHECK ((count > 0)),
    CONSTRAINT audit_event_check CHECK ((event ~ '^[a-z_]{1,40}$'::text)),
    CONSTRAINT audit_hashes_check CHECK (((octet_length(previous) = 32) AND (octet_length(hash) = 32))),
    CONSTRAINT audit_pseudonyms_check CHECK (((octet_length(subject) = 16) AND (octet_length(address) = 16)))
);
CREATE TABLE public.contact_requests (
    id uuid DEFAULT gen_random_uuid() NOT NULL,
    sender_id uuid NOT NULL,
    receiver_id uuid NOT NULL,
    status text DEFAULT 'pending'::text NOT NULL,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    updated_at timestamp with time zone DEFAULT now() NOT NULL,
    CONSTRAINT contact_requests_not_self_check CHECK ((sender_id <> receiver_id)),
    CONSTRAINT contact_requests_status_check CHECK ((status = ANY (ARRAY['pending'::text, 'accepted'::text, 'rejected'::text])))
);
CREATE TABLE public.lasting_prekeys (
    user_id uuid NOT NULL,
    algorithm text NOT NULL,
    id uuid NOT NULL,
    public_key bytea NOT NULL,
    signature bytea NOT NULL,
    expires_at timestamp with time zone NOT NULL,
    CONSTRAINT lasting_prekeys_algorithm_check CHECK ((algorithm = ANY (ARRAY['p384'::text, 'ml-kem-1024'::text]))),
    CONSTRAINT lasting_prekeys_key_length_check CHECK ((octet_length(public_key) =
CASE algorithm
    WHEN 'p384'::text THEN 120
    ELSE 1568
END))
);
CREATE TABLE public.messages (
    id uuid DEFAULT uuidv7() NOT NULL,
    sender_id uuid NOT NULL,
    recipient_id uuid NOT NULL,
    "timestamp" timestamp with time zone DEFAULT now() NOT NULL,
    message bytea NOT NULL,
    CONSTRAINT messages_size_check CHECK (((octet_length(message) >= 1) AND (octet_length(message) <= 65536)))
)
WITH (autovacuum_vacuum_threshold='10', autovacuum_vacuum_scale_factor='0.01', toast.autovacuum_vacuum_threshold='40', toast.autovacuum_vacuum_scale_factor='0.01');
ALTER TABLE ONLY public.messages ALTER COLUMN message SET STORAGE EXTERNAL;
CREATE TABLE public.names (
    name_key text NOT NULL COLLATE pg_catalog."C",
    CONSTRAINT names_shape_check CHECK ((name_key ~ '^[a-z0-9_]{3,50}$'::text))
);
CREATE TABLE public.one_time_prekeys (
    user_id uuid NOT NULL,
    algorithm text NOT NULL,
    id uuid NOT NULL,
    number bigint NOT NULL,
    fingerprint bytea NOT NULL,
    public_key bytea,
    signature bytea,
    claimed_on date,
    CONSTRAINT one_time_prekeys_algorithm_check CHECK ((algorithm = ANY (ARRAY['p384'::text, 'ml-kem-1024'::text]))),
    CONSTRAINT one_time_prekeys_claimed_check CHECK ((((claimed_on IS NULL) = (public_key IS NOT NULL)) AND ((claimed_on IS NULL) = (signature IS NOT NULL)))),
    CONSTRAINT one_time_prekeys_fingerprint_length_check CHECK ((octet_length(fingerprint) = 48)),
    CONSTRAINT one_time_prekeys_key_length_check CHECK ((octet_length(public_key) =
CASE algorithm
    WHEN 'p384'::text THEN 120
    ELSE 1568
END))
);
ALTER TABLE public.one_time_prekeys ALTER COLUMN number ADD GENERATED ALWAYS AS IDENTITY (
    SEQUENCE NAME public.one_time_prekeys_number_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);
CREATE TABLE public.prekey_claims (
    user_id uuid NOT NULL,
    claimant_id uuid NOT NULL,
    day date NOT NULL,
    count integer NOT NULL
);
CREATE TABLE public.pseudonym_keys (
    day date NOT NULL,
    key bytea NOT NULL,
    CONSTRAINT pseudonym_keys_key_length_check CHECK ((octet_length(key) = 32))
);
CREATE TABLE public.receipts (
    sender_id uuid NOT NULL,
    message_id uuid NOT NULL
)
WITH (autovacuum_vacuum_threshold='10', autovacuum_vacuum_scale_factor='0.01');
CREATE TABLE public.retired_ecdh_keys (
    user_id uuid NOT NULL,
    fingerprint bytea NOT NULL
);
CREATE TABLE public.sessions (
    id uuid NOT NULL,
    user_id uuid NOT NULL,
    expires_at timestamp with time zone NOT NULL,
    contacts_seen bigint NOT NULL,
    created_at timestamp with time zone DEFAULT now() NOT NULL
);
CREATE TABLE public.token_keys (
    id text NOT NULL,
    public_key bytea NOT NULL,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    retires_at timestamp with time zone
);
CREATE TABLE public.traces (
    id uuid NOT NULL,
    sender_id uuid NOT NULL,
    client_message_id uuid,
    "timestamp" timestamp with time zone DEFAULT now() NOT NULL,
    expired_at timestamp with time zone
);
CREATE TABLE public.users (
    id uuid DEFAULT gen_random_uuid() NOT NULL,
    name text NOT NULL,
    name_key text NOT NULL COLLATE pg_catalog."C",
    ecdsa_public_key bytea NOT NULL,
    ecdh_public_key bytea NOT NULL,
    ecdh_signature bytea NOT NULL,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    contacts_version bigint DEFAULT 0 NOT NULL,
    contacts_told bigint DEFAULT 0 NOT NULL,
    CONSTRAINT users_key_length_check CHECK (((octet_length(ecdsa_public_key) = 120) AND (octet_length(ecdh_public_key) = 120))),
    CONSTRAINT users_keys_differ_check CHECK ((ecdsa_public_key <> ecdh_public_key)),
    CONSTRAINT users_name_key_check CHECK ((name_key = lower(name)))
);
ALTER TABLE ONLY public.alembic_version
    ADD CONSTRAINT alembic_version_pkc PRIMARY KEY (version_num);
ALTER TABLE ONLY public.audit
    ADD CONSTRAINT audit_pkey PRIMARY KEY (id);
ALTER TABLE ONLY public.contact_requests
    ADD CONSTRAINT contact_requests_pkey PRIMARY KEY (id);
ALTER TABLE ONLY public.lasting_prekeys
    ADD CONSTRAINT lasting_prekeys_pkey PRIMARY KEY (user_id, algorithm);
ALTER TABLE ONLY public.messages
    ADD CONSTRAINT messages_pkey PRIMARY KEY (id);
ALTER TABLE ONLY public.names
    ADD CONSTRAINT names_pkey PRIMARY KEY (name_key);
ALTER TABLE ONLY public.one_time_prekeys
    ADD CONSTRAINT one_time_prekeys_pkey PRIMARY KEY (user_id, algorithm, id);
ALTER TABLE ONLY public.prekey_claims
    ADD CONSTRAINT prekey_claims_pkey PRIMARY KEY (user_id, claimant_id);
ALTER TABLE ONLY public.pseudonym_keys
    ADD CONSTRAINT pseudonym_keys_pkey PRIMARY KEY (day);
ALTER TABLE ONLY public.receipts
    ADD CONSTRAINT receipts_pkey PRIMARY KEY (sender_id, message_id);
ALTER TABLE ONLY public.retired_ecdh_keys
    ADD CONSTRAINT retired_ecdh_keys_pkey PRIMARY KEY (user_id, fingerprint);
ALTER TABLE ONLY public.sessions
    ADD CONSTRAINT sessions_pkey PRIMARY KEY (id);
ALTER TABLE ONLY public.token_keys
    ADD CONSTRAINT token_keys_pkey PRIMARY KEY (id);
ALTER TABLE ONLY public.traces
    ADD CONSTRAINT traces_pkey PRIMARY KEY (id);
ALTER TABLE ONLY public.users
    ADD CONSTRAINT users_name_key_key UNIQUE (name_key);
ALTER TABLE ONLY public.users
    ADD CONSTRAINT users_pkey PRIMARY KEY (id);
CREATE UNIQUE INDEX contact_requests_pair_key ON public.contact_requests USING btree (LEAST(sender_id, receiver_id), GREATEST(sender_id, receiver_id));
CREATE INDEX contact_requests_receiver_id_idx ON public.contact_requests USING btree (receiver_id);
CREATE INDEX contact_requests_sender_id_idx ON public.contact_requests USING btree (sender_id);
CREATE INDEX lasting_prekeys_expires_at_idx ON public.lasting_prekeys USING btree (expires_at);
CREATE INDEX messages_inbox_idx ON public.messages USING btree (recipient_id, id);
CREATE INDEX one_time_prekeys_claimed_idx ON public.one_time_prekeys USING btree (claimed_on) WHERE (claimed_on IS NOT NULL);
CREATE UNIQUE INDEX one_time_prekeys_fingerprint_key ON public.one_time_prekeys USING btree (user_id, fingerprint);
CREATE INDEX one_time_prekeys_waiting_idx ON public.one_time_prekeys USING btree (user_id, algorithm, number) WHERE (claimed_on IS NULL);
CREATE INDEX prekey_claims_claimant_id_idx ON public.prekey_claims USING btree (claimant_id);
CREATE INDEX prekey_claims_day_idx ON public.prekey_claims USING btree (day);
CREATE INDEX sessions_expires_at_idx ON public.sessions USING btree (expires_at);
CREATE INDEX sessions_user_id_idx ON public.sessions USING btree (user_id);
CREATE UNIQUE INDEX traces_sender_client_key ON public.traces USING btree (sender_id, client_message_id);
CREATE TRIGGER audit_rows BEFORE DELETE OR UPDATE ON public.audit FOR EACH ROW EXECUTE FUNCTION public.audit_is_append_only();
CREATE TRIGGER audit_table BEFORE TRUNCATE ON public.audit FOR EACH STATEMENT EXECUTE FUNCTION public.audit_is_append_only();
ALTER TABLE ONLY public.contact_requests
    ADD CONSTRAINT contact_requests_receiver_id_fkey FOREIGN KEY (receiver_id) REFERENCES public.users(id) ON DELETE CASCADE;
ALTER TABLE ONLY public.contact_requests
    ADD CONSTRAINT contact_requests_sender_id_fkey FOREIGN KEY (sender_id) REFERENCES public.users(id) ON DELETE CASCADE;
ALTER TABLE ONLY public.lasting_prekeys
    ADD CONSTRAINT lasting_prekeys_user_id_fkey FOREIGN KEY (user_id) REFERENCES public.users(id) ON DELETE CASCADE;
ALTER TABLE ONLY public.one_time_prekeys
    ADD CONSTRAINT one_time_prekeys_user_id_fkey FOREIGN KEY (user_id) REFERENCES public.users(id) ON DELETE CASCADE;
ALTER TABLE ONLY public.prekey_claims
    ADD CONSTRAINT prekey_claims_claimant_id_fkey FOREIGN KEY (claimant_id) REFERENCES public.users(id) ON DELETE CASCADE;
ALTER TABLE ONLY public.prekey_claims
    ADD CONSTRAINT prekey_claims_user_id_fkey FOREIGN KEY (user_id) REFERENCES public.users(id) ON DELETE CASCADE;
ALTER TABLE ONLY public.retired_ecdh_keys
    ADD CONSTRAINT retired_ecdh_keys_user_id_fkey FOREIGN KEY (user_id) REFERENCES public.users(id) ON DELETE CASCADE;
ALTER TABLE ONLY public.sessions
    ADD CONSTRAINT sessions_user_id_fkey FOREIGN KEY (user_id) REFERENCES public.users(id) ON DELETE CASCADE;
ALTER TABLE ONLY public.users
    ADD CONSTRAINT users_name_key_fkey FOREIGN KEY (name_key) REFERENCES public.names(name_key);
