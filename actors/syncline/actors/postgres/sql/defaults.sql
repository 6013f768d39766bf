-- What a column takes when an insert leaves it out, and how a device comes to that: by itself, offline, where the expression
-- is one of a few kinds; else Postgres evaluates it when the insert arrives.
--
-- Expressions are read as Postgres prints them, with a search path that qualifies all names but its own, and as trees, which
-- name every function and operator that is called.

-- The sequence whose next value the column takes: of an identity, a serial, or of nothing but nextval.
CREATE OR REPLACE FUNCTION electric.sequence_of(target oid, number smallint) RETURNS oid
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
SELECT s.oid
FROM pg_attribute a
LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
CROSS JOIN LATERAL (  -- each by an index of pg_depend, which thousands of tables make long
    SELECT n.objid AS oid FROM pg_depend n
    WHERE a.attidentity <> '' AND n.refclassid = 'pg_class'::regclass AND n.refobjid = target AND n.refobjsubid = number
        AND n.classid = 'pg_class'::regclass AND n.deptype = 'i'
    UNION ALL
    SELECT n.refobjid FROM pg_depend n
    WHERE a.attidentity = '' AND n.classid = 'pg_attrdef'::regclass AND n.objid = d.oid AND n.refclassid = 'pg_class'::regclass
        AND pg_get_expr(d.adbin, d.adrelid) ~ '^nextval\(''[^'']*''::regclass\)$'
) AS n
JOIN pg_class s ON s.relkind = 'S' AND s.oid = n.oid
WHERE a.attrelid = target AND a.attnum = number AND a.attgenerated = ''
$$;

-- The default of a column as an expression: its own, that of its identity, or of its domain. NULL: it has none.
CREATE OR REPLACE FUNCTION electric.default_expression(target oid, number smallint) RETURNS text
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
SELECT CASE
    WHEN a.attidentity <> '' THEN format('nextval(%L::regclass)', electric.sequence_of(target, number)::regclass)
    WHEN a.attgenerated = '' THEN coalesce(pg_get_expr(d.adbin, d.adrelid), pg_get_expr(y.typdefaultbin, 0)) END
FROM pg_attribute a
JOIN pg_type y ON y.oid = a.atttypid
LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
WHERE a.attrelid = target AND a.attnum = number
$$;

-- The type under all domains.
CREATE OR REPLACE FUNCTION electric.under_domains(target oid) RETURNS oid
LANGUAGE sql STABLE AS $$
WITH RECURSIVE under (type, depth) AS (
    SELECT target, 0
    UNION ALL
    SELECT y.typbasetype, under.depth + 1 FROM under JOIN pg_type y ON y.oid = under.type WHERE y.typtype = 'd'
)
SELECT type FROM under ORDER BY depth DESC LIMIT 1
$$;

-- Whether an expression, given as a tree, has the same value always: it has no parts but constants, conversions and calls of
-- what is IMMUTABLE.
CREATE OR REPLACE FUNCTION electric.is_constant(tree text) RETURNS boolean
LANGUAGE sql STABLE AS $$
SELECT NOT EXISTS (
        SELECT FROM regexp_matches(tree, '\{([A-Z]+)', 'g') AS node WHERE node[1] <> ALL (ARRAY[
            'CONST', 'FUNCEXPR', 'OPEXPR', 'RELABELTYPE', 'COERCEVIAIO', 'ARRAYCOERCEEXPR', 'CASETESTEXPR', 'ARRAYEXPR', 'ARRAY',
            'ROWEXPR', 'ROW', 'CONVERTROWTYPEEXPR', 'COERCETODOMAIN', 'COLLATEEXPR', 'COLLATE', 'NAMEDARGEXPR']))
    AND NOT EXISTS (
        SELECT FROM regexp_matches(tree, ':(funcid|opno) (\d+)', 'g') AS called
        LEFT JOIN pg_operator o ON called[1] = 'opno' AND o.oid = called[2]::oid
        JOIN pg_proc p ON p.oid = coalesce(o.oprcode::oid, called[2]::oid)
        WHERE p.provolatile <> 'i')
    AND (tree !~ '\{COERCEVIAIO' OR NOT EXISTS (
        SELECT FROM regexp_matches(tree, ':(consttype|resulttype|funcresulttype) (\d+)', 'g') AS converted
        JOIN pg_type y ON y.oid = converted[2]::oid JOIN pg_proc p ON p.oid IN (y.typinput, y.typoutput)
        WHERE p.provolatile <> 'i'))
$$;

-- What is known of a default that tells the time, {"kind": "now", ...}; NULL: it is none, or one of another zone. "of" is the
-- type without its domain; "day": the time of day is cut off; "precision": of seconds, in digits, where that is limited.
CREATE OR REPLACE FUNCTION electric.now_default(expression text, of_type oid, modifier integer) RETURNS jsonb
LANGUAGE plpgsql STABLE AS $$
DECLARE
    core text := expression;
    inner_ text[];
    day boolean := of_type = 'date'::regtype;
    digits integer := CASE WHEN modifier >= 0 AND NOT day THEN modifier END;
BEGIN
    LOOP
        inner_ := coalesce(
            regexp_match(core, '^\((.*)\)::(?:timestamp|time)(?:\((\d)\))? with(?:out)? time zone$'),
            regexp_match(core, '^\((.*)\)::(date)$'),
            regexp_match(core, '^\((.*) AT TIME ZONE ''utc''::text()\)$', 'i'),
            regexp_match(core, '^timezone\(''utc''::text, (.*)()\)$', 'i'),
            regexp_match(core, '^((?:CURRENT|LOCAL)_?(?:TIMESTAMP|TIME))\((\d)\)$'));
        EXIT WHEN inner_ IS NULL;
        core := inner_[1];
        day := day OR inner_[2] IS NOT DISTINCT FROM 'date';
        digits := least(digits, substring(inner_[2], '^\d$')::integer);
    END LOOP;
    IF (CASE
        WHEN of_type = 'time'::regtype THEN core IN ('LOCALTIME', 'LOCALTIMESTAMP', 'CURRENT_TIMESTAMP', 'now()')
        WHEN of_type = ANY ('{timestamp,timestamptz,date}'::regtype[]) THEN
            core ~ '^(now|(statement|clock|transaction)_timestamp)\(\)$'
            OR core IN ('CURRENT_TIMESTAMP', 'LOCALTIMESTAMP', 'CURRENT_DATE') END)
    THEN
        RETURN jsonb_strip_nulls(jsonb_build_object(
            'kind', 'now', 'of', (SELECT typname FROM pg_type WHERE oid = of_type),
            'day', nullif(day OR core = 'CURRENT_DATE', false), 'precision', digits));
    END IF;
    RETURN NULL;
END
$$;

-- The default of a column, for devices. {"kind": "literal", "value": text}: always this, as Postgres prints it. "now", see
-- above. "uuid", with "version". "sequence": the next value of one, an integer that
-- does not come again. "server": something that only Postgres can evaluate.
-- NULL: it has none.
CREATE OR REPLACE FUNCTION electric.described_default(target oid, number smallint) RETURNS jsonb
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp SET TimeZone = 'UTC' SET DateStyle = 'ISO'
SET IntervalStyle = 'postgres' SET bytea_output = 'hex' SET lc_monetary = 'C' SET extra_float_digits = 1 AS $$
DECLARE
    expression CONSTANT text := electric.default_expression(target, number);
    part record;
    sequence record;
    uuid text[];
    value text;
    known jsonb;
BEGIN
    IF expression IS NULL THEN
        RETURN NULL;
    END IF;
    SELECT coalesce(d.adbin, y.typdefaultbin)::text AS tree, format_type(a.atttypid, a.atttypmod) AS type,
        electric.under_domains(y.oid) AS base, greatest(a.atttypmod, y.typtypmod) AS modifier
        INTO part
        FROM pg_attribute a
        JOIN pg_type y ON y.oid = a.atttypid
        LEFT JOIN pg_attrdef d ON d.adrelid = target AND d.adnum = number
        WHERE a.attrelid = target AND a.attnum = number;
    SELECT s.seqcycle AS cycles INTO sequence FROM pg_sequence s WHERE s.seqrelid = electric.sequence_of(target, number);
    IF FOUND THEN
        RETURN jsonb_build_object('kind', CASE
            WHEN part.base = ANY ('{int2,int4,int8}'::regtype[]) AND NOT sequence.cycles THEN 'sequence' ELSE 'server' END);
    ELSIF electric.is_constant(part.tree) THEN
        BEGIN
            EXECUTE format(
                'SELECT CASE WHEN v IS DISTINCT FROM NULL THEN format(''%%s'', v) END FROM (SELECT (%s)::%s AS v) AS one',
                expression, part.type) INTO value;
        EXCEPTION WHEN OTHERS THEN
            RETURN '{"kind": "server"}';  -- so does every insert that leaves it out
        END;
        RETURN CASE WHEN value IS NOT NULL THEN jsonb_build_object('kind', 'literal', 'value', value) END;
    END IF;
    known := electric.now_default(expression, part.base, part.modifier);
    IF known IS NOT NULL THEN
        RETURN known;
    END IF;
    uuid := regexp_match(expression, '^\(?(?:[[:alnum:]_]+\.|"[^"]+"\.)?'
        '(gen_random_uuid|uuid_generate_v4|uuidv4|uuidv7|uuid_generate_v7)\(\)(?:\)::(?:text|character varying))?$');
    IF uuid IS NOT NULL AND part.base = ANY ('{uuid,text,varchar}'::regtype[]) THEN
        RETURN jsonb_build_object('kind', 'uuid', 'version', CASE WHEN uuid[1] ~ '7$' THEN 7 ELSE 4 END);
    END IF;
    RETURN '{"kind": "server"}';
END
$$;
