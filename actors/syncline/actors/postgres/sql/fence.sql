-- Who may work for a slot. See ownership.py, whose statements these are.

-- A service takes the slot over: its epoch, greater than all before it.
CREATE FUNCTION electric.take_over(p_slot text) RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
    taken bigint;
BEGIN
    INSERT INTO electric.owner AS o (slot, epoch, granted) VALUES (p_slot, 1, 1)
    ON CONFLICT (slot) DO UPDATE
        SET epoch = greatest(o.epoch, o.granted) + 1, granted = greatest(o.epoch, o.granted) + 1, taken_at = now()
    RETURNING epoch INTO taken;
    DELETE FROM electric.hosts WHERE slot = p_slot;
    RETURN taken;
END
$$;

-- A host of the service with epoch p_service starts, again or for the first time: the epoch of this incarnation.
CREATE FUNCTION electric.claim(p_slot text, p_service bigint, p_host text) RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
    claimed bigint;
BEGIN
    UPDATE electric.owner SET granted = granted + 1 WHERE slot = p_slot AND epoch = p_service
    RETURNING granted INTO claimed;
    IF claimed IS NULL THEN
        RAISE 'epoch % of slot % is over: another service has taken it over', p_service, p_slot
            USING ERRCODE = 'SY001';
    END IF;
    INSERT INTO electric.hosts AS h (slot, host, epoch) VALUES (p_slot, p_host, claimed)
    ON CONFLICT (slot, host) DO UPDATE SET epoch = claimed, started_at = now();
    RETURN claimed;
END
$$;

-- Returns if this incarnation of the host is the newest (else raises SY002) of the service that owns the slot (else SY001).
CREATE FUNCTION electric.fence(p_slot text, p_service bigint, p_host text, p_epoch bigint) RETURNS void
LANGUAGE plpgsql STABLE AS $$
BEGIN
    IF NOT EXISTS (SELECT FROM electric.owner WHERE slot = p_slot AND epoch = p_service) THEN
        RAISE 'epoch % of slot % is over: another service has taken it over', p_service, p_slot
            USING ERRCODE = 'SY001';
    END IF;
    IF NOT EXISTS (SELECT FROM electric.hosts WHERE slot = p_slot AND host = p_host AND epoch = p_epoch) THEN
        RAISE 'epoch % of host % is over: another process has taken its place', p_epoch, p_host
            USING ERRCODE = 'SY002';
    END IF;
END
$$;
