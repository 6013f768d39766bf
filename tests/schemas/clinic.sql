-- A clinic whose database does the work: triggers of every kind write, forbid, redirect and complete. Nothing is deleted,
-- only marked; every change has a copy in a history; lists are renumbered, sums kept, keys written in one way.

CREATE SCHEMA history;

CREATE TYPE sex AS ENUM ('f', 'm', 'x');
CREATE TYPE visit_state AS ENUM ('planned', 'arrived', 'seen', 'missed');

CREATE TABLE patients (
    id bigserial PRIMARY KEY,
    insurance_no varchar(20) NOT NULL UNIQUE,
    family_name text NOT NULL,
    given_name text NOT NULL,
    full_name text GENERATED ALWAYS AS (given_name || ' ' || family_name) STORED,
    sex sex,
    born date NOT NULL CHECK (born > '1900-01-01'),
    allergies text[] NOT NULL DEFAULT '{}',
    visits integer NOT NULL DEFAULT 0,
    deleted_at timestamptz,
    version integer NOT NULL DEFAULT 1
);
CREATE UNIQUE INDEX patients_name ON patients (lower(family_name), lower(given_name), born) WHERE deleted_at IS NULL;

CREATE TABLE doctors (
    licence text PRIMARY KEY,
    name text NOT NULL,
    specialities text[] DEFAULT '{general}',
    works tstzmultirange NOT NULL DEFAULT '{}'
);

CREATE TABLE visits (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    patient_id bigint NOT NULL REFERENCES patients ON DELETE CASCADE,
    doctor text REFERENCES doctors ON UPDATE CASCADE ON DELETE SET NULL,
    state visit_state NOT NULL DEFAULT 'planned',
    planned_at timestamptz NOT NULL,
    ended_at timestamptz,
    notes text,
    CHECK (ended_at > planned_at)
);

CREATE TABLE prescriptions (
    visit_id uuid NOT NULL REFERENCES visits ON DELETE CASCADE,
    position integer NOT NULL,
    drug text NOT NULL,
    dose_mg numeric(8, 3) NOT NULL CHECK (dose_mg > 0),
    per_day smallint NOT NULL DEFAULT 1 CHECK (per_day BETWEEN 1 AND 12),
    daily_mg numeric(10, 3),
    PRIMARY KEY (visit_id, position)
);

CREATE TABLE drugs (
    name text PRIMARY KEY,
    atc char(7) NOT NULL DEFAULT 'N02BE01',
    max_daily_mg numeric(10, 3)
);

CREATE TABLE invoices (
    number text PRIMARY KEY,
    visit_id uuid UNIQUE REFERENCES visits ON DELETE SET NULL,
    total numeric(10, 2) NOT NULL DEFAULT 0,
    paid boolean NOT NULL DEFAULT false
);
CREATE TABLE invoice_lines (
    invoice text NOT NULL REFERENCES invoices ON DELETE CASCADE,
    id integer GENERATED ALWAYS AS IDENTITY,
    code varchar(8) NOT NULL,
    amount numeric(10, 2) NOT NULL,
    PRIMARY KEY (invoice, id)
);

-- The history of patients, a row a change, and who it was.
CREATE TABLE history.patients (
    change bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    changed_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    changed_by name NOT NULL DEFAULT current_user,
    operation text NOT NULL,
    row_before jsonb,
    row_after jsonb
);
CREATE TABLE statistics (
    name text PRIMARY KEY,
    value bigint NOT NULL DEFAULT 0
);

-- One way to write a key.
CREATE FUNCTION normalize_drug() RETURNS trigger LANGUAGE plpgsql AS
    $$ BEGIN new.name := initcap(btrim(new.name)); RETURN new; END $$;
CREATE TRIGGER normalize BEFORE INSERT OR UPDATE ON drugs FOR EACH ROW EXECUTE FUNCTION normalize_drug();

-- Patients are not deleted.
CREATE FUNCTION mark_deleted() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    UPDATE patients SET deleted_at = now() WHERE id = old.id AND deleted_at IS NULL;
    RETURN NULL;
END $$;
CREATE TRIGGER mark_deleted BEFORE DELETE ON patients FOR EACH ROW EXECUTE FUNCTION mark_deleted();

CREATE FUNCTION next_version() RETURNS trigger LANGUAGE plpgsql AS
    $$ BEGIN new.version := old.version + 1; RETURN new; END $$;
CREATE TRIGGER next_version BEFORE UPDATE ON patients
    FOR EACH ROW WHEN (old.family_name <> new.family_name OR old.born <> new.born) EXECUTE FUNCTION next_version();

CREATE FUNCTION history.keep() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path = history AS $$
BEGIN
    IF tg_op = 'INSERT' THEN
        INSERT INTO patients (operation, row_after) VALUES (tg_op, to_jsonb(new));
    ELSE
        INSERT INTO patients (operation, row_before, row_after) VALUES (tg_op, to_jsonb(old), to_jsonb(new));
    END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER keep AFTER INSERT OR UPDATE ON public.patients FOR EACH ROW EXECUTE FUNCTION history.keep();

-- By statement, with what it changed.
CREATE FUNCTION count_visits() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    UPDATE patients p SET visits = p.visits + n.count
        FROM (SELECT patient_id, count(*) FROM added GROUP BY 1) n WHERE n.patient_id = p.id;
    INSERT INTO statistics VALUES ('visits', (SELECT count(*) FROM added))
        ON CONFLICT (name) DO UPDATE SET value = statistics.value + excluded.value;
    RETURN NULL;
END $$;
CREATE TRIGGER count_visits AFTER INSERT ON visits REFERENCING NEW TABLE AS added
    FOR EACH STATEMENT EXECUTE FUNCTION count_visits();

CREATE FUNCTION forbid_backwards() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF new.state = 'planned' AND old.state <> 'planned' THEN
        RAISE EXCEPTION 'a visit that was % is not planned again', old.state USING DETAIL = new.id::text;
    END IF;
    IF new.state = 'seen' AND new.ended_at IS NULL THEN
        new.ended_at := new.planned_at + interval '20 minutes';
    END IF;
    RETURN new;
END $$;
CREATE TRIGGER forbid_backwards BEFORE UPDATE OF state ON visits FOR EACH ROW EXECUTE FUNCTION forbid_backwards();

-- What a dose comes to, and whether that is too much; an unknown drug becomes a known one.
CREATE FUNCTION check_dose() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    most numeric;
BEGIN
    new.daily_mg := new.dose_mg * new.per_day;
    INSERT INTO drugs (name) VALUES (new.drug) ON CONFLICT DO NOTHING;
    SELECT max_daily_mg INTO most FROM drugs WHERE name = initcap(btrim(new.drug));
    IF new.daily_mg > most THEN
        RAISE EXCEPTION '% mg of % a day', new.daily_mg, new.drug USING ERRCODE = 'check_violation', TABLE = 'prescriptions';
    END IF;
    RETURN new;
END $$;
CREATE TRIGGER check_dose BEFORE INSERT OR UPDATE ON prescriptions FOR EACH ROW EXECUTE FUNCTION check_dose();

CREATE FUNCTION sum_invoice() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    UPDATE invoices i SET total = coalesce((SELECT sum(amount) FROM invoice_lines l WHERE l.invoice = i.number), 0)
    WHERE i.number IN (CASE WHEN tg_op <> 'DELETE' THEN new.invoice END, CASE WHEN tg_op <> 'INSERT' THEN old.invoice END);
    RETURN NULL;
END $$;
CREATE TRIGGER sum_invoice AFTER INSERT OR UPDATE OR DELETE ON invoice_lines FOR EACH ROW EXECUTE FUNCTION sum_invoice();

CREATE FUNCTION paid_is_closed() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF EXISTS (SELECT FROM invoices WHERE number = old.invoice AND paid) THEN
        RAISE EXCEPTION 'invoice % is paid', old.invoice;
    END IF;
    RETURN CASE tg_op WHEN 'DELETE' THEN old ELSE new END;
END $$;
CREATE TRIGGER paid_is_closed BEFORE UPDATE OR DELETE ON invoice_lines FOR EACH ROW EXECUTE FUNCTION paid_is_closed();

-- Two invoices are never of one amount and both unpaid at the end of a transaction: nobody knows why any more.
CREATE FUNCTION amounts_differ() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF EXISTS (SELECT FROM invoices WHERE total = new.total AND total > 500 AND NOT paid AND number <> new.number) THEN
        RAISE EXCEPTION 'two invoices of %', new.total;
    END IF;
    RETURN NULL;
END $$;
CREATE CONSTRAINT TRIGGER amounts_differ AFTER INSERT OR UPDATE ON invoices DEFERRABLE INITIALLY DEFERRED
    FOR EACH ROW WHEN (NOT new.paid) EXECUTE FUNCTION amounts_differ();

INSERT INTO patients (insurance_no, family_name, given_name, sex, born, allergies)
SELECT 'A' || 100000000 + n, (ARRAY['Berg', 'Okafor', 'Silva'])[1 + n % 3], 'Patient ' || n, (enum_range(NULL::sex))[1 + n % 3],
    date '1960-02-29' + 500 * n, ARRAY['a' || n] FROM generate_series(1, 8) n;
INSERT INTO doctors (licence, name, works) VALUES
    ('L-1', 'Dr. One', '{[2024-01-01 08:00+00,2024-01-01 16:00+00)}'), ('L-2', 'Dr. Two', '{}'), ('L-3', 'Dr. Three', '{}');
INSERT INTO drugs (name, max_daily_mg) VALUES ('paracetamol', 4000), (' ibuprofen ', 2400), ('Aspirin', NULL);
INSERT INTO visits (patient_id, doctor, state, planned_at)
SELECT 1 + n % 8, 'L-' || 1 + n % 3, (enum_range(NULL::visit_state))[1 + n % 2], timestamptz '2024-03-01 08:00+00' + n * interval '1 hour'
FROM generate_series(1, 12) n;
UPDATE visits SET state = 'seen' WHERE state = 'arrived' AND doctor <> 'L-3';
INSERT INTO prescriptions (visit_id, position, drug, dose_mg, per_day)
SELECT v.id, n, d.name, 100 * n, n FROM visits v, generate_series(1, 2) n, drugs d WHERE d.atc = 'N02BE01' AND v.state = 'seen' AND d.name = 'Aspirin';
INSERT INTO invoices (number, visit_id, paid) SELECT 'R-' || row_number() OVER (ORDER BY planned_at), id, doctor = 'L-1' FROM visits;
INSERT INTO invoice_lines (invoice, code, amount) SELECT number, 'GOA ' || n, 10.25 * n FROM invoices, generate_series(1, 2) n;
