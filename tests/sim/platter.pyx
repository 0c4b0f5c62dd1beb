"""What a disk holds in its tiers, and how each is lost: see platter.pxd."""
from libc.errno cimport ENAMETOOLONG, ENOSPC
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy, memset, strcmp, strcpy, strlen, strncmp, strrchr


cdef uint64_t draw(State *d) noexcept nogil:
    """The next of a splitmix64 sequence."""
    d.random += <uint64_t>0x9E3779B97F4A7C15
    cdef uint64_t x = d.random
    x = (x ^ (x >> 30)) * <uint64_t>0xBF58476D1CE4E5B9
    x = (x ^ (x >> 27)) * <uint64_t>0x94D049BB133111EB
    return x ^ (x >> 31)


cdef const Fault *strikes(State *d, int call) noexcept nogil:
    """Counts the call; the fault that was armed for it, if any."""
    cdef int i
    d.calls[call] += 1
    for i in range(d.fault_count):
        if d.faults[i].call == call and d.faults[i].at == d.calls[call]:
            return &d.faults[i]
    return NULL


cdef int struck(State *d, int call) noexcept nogil:
    cdef const Fault *fault = strikes(d, call)
    return 0 if fault == NULL else -fault.error


# ------------------------------------------------------------------------------------- names
cdef Name *name_of(State *d, const char *path) noexcept nogil:
    cdef int i
    for i in range(d.name_count):
        if strcmp(d.names[i].path, path) == 0:
            return &d.names[i]
    return NULL


cdef Name *name_made(State *d, const char *path) noexcept nogil:
    """The entry of a path, made where there is none; NULL: no room or too long."""
    cdef Name *name = name_of(d, path)
    if name != NULL or d.name_count == FILES or strlen(path) >= PATH:
        return name
    name = &d.names[d.name_count]
    d.name_count += 1
    strcpy(name.path, path)
    name.file = -1
    name.synced_file = -1
    return name


cdef int change(State *d, const char *path, int file) noexcept nogil:
    """A name comes or goes in the cache; the platter hears of it with the next sync_dir."""
    cdef Name *name = name_made(d, path)
    if name == NULL:
        return -ENAMETOOLONG
    if d.change_count == CHANGES:
        return -ENOSPC
    name.file = file
    strcpy(d.changes[d.change_count].path, path)
    d.changes[d.change_count].file = file
    d.change_count += 1
    return 0


cdef bint lies_in(const char *path, const char *directory) noexcept nogil:
    cdef size_t n = strlen(directory)
    return strncmp(path, directory, n) == 0 and strrchr(path, c'/') == path + n


cdef void release(State *d) noexcept nogil:
    """Forgets names without a file, then frees every file that neither tier nor a handle holds."""
    cdef bint held[FILES]
    cdef int i, kept = 0
    memset(held, 0, sizeof(held))
    for i in range(d.name_count):
        if d.names[i].file < 0 and d.names[i].synced_file < 0:
            continue
        d.names[kept] = d.names[i]
        kept += 1
        if d.names[i].file >= 0:
            held[d.names[i].file] = True
        if d.names[i].synced_file >= 0:
            held[d.names[i].synced_file] = True
    d.name_count = kept
    for i in range(d.change_count):
        if d.changes[i].file >= 0:
            held[d.changes[i].file] = True
    for i in range(FILES):
        if d.files[i].used and not held[i] and d.files[i].handles == 0:
            free_file(d, i)


cdef void free_file(State *d, int i) noexcept nogil:
    """Its buffers are kept for the next file, as zeros."""
    cdef File *f = &d.files[i]
    if d.flying == i:
        d.flying = -1
    if d.spare_count < SPARE:
        memset(f.cache, 0, f.extent)
        memset(f.platter, 0, f.extent)
        memset(f.sectors, 0, d.capacity // SECTOR)
        d.spare[d.spare_count] = f.cache
        d.spare_count += 1
    else:
        free(f.cache)
    memset(f, 0, sizeof(File))


cdef int file_new(State *d) noexcept nogil:
    """An empty inode, or -errno. One block: cache, platter, flight, sectors."""
    cdef File *f
    cdef int i
    for i in range(FILES):
        f = &d.files[i]
        if not f.used:
            if d.spare_count:
                d.spare_count -= 1
                f.cache = <char *>d.spare[d.spare_count]
            else:
                f.cache = <char *>calloc(1, 3 * d.capacity + d.capacity // SECTOR)
            if f.cache == NULL:
                return -ENOSPC
            f.platter = f.cache + d.capacity
            f.flight = f.platter + d.capacity
            f.sectors = <uint8_t *>(f.flight + d.capacity)
            f.low = d.capacity // SECTOR
            f.used = True
            return i
    return -ENOSPC


cdef uint64_t used_space(const State *d) noexcept nogil:
    cdef uint64_t total = 0
    cdef int i
    for i in range(FILES):
        if d.files[i].used:
            total += d.files[i].size
    return total


# ------------------------------------------------------------------------------------- files
cdef File *file_at(State *d, int fd) noexcept nogil:
    cdef int at = fd % HANDLES
    if fd < 0 or <uint64_t>(fd // HANDLES) != d.life or d.handles[at].file < 0:
        return NULL
    return &d.files[d.handles[at].file]


cdef File *file_named(State *d, const char *path) noexcept nogil:
    cdef Name *name = name_of(d, path)
    return NULL if name == NULL or name.file < 0 else &d.files[name.file]


cdef void dirty(File *f, uint64_t from_, uint64_t to) noexcept nogil:
    cdef uint64_t i, low = from_ // SECTOR, high = (to + SECTOR - 1) // SECTOR
    if to <= from_:
        return
    for i in range(low, high):
        f.sectors[i] = (f.sectors[i] & FLYING) | DIRTY
    f.low = low if low < f.low else f.low
    f.high = high if high > f.high else f.high
    f.extent = to if to > f.extent else f.extent


cdef void land(State *d) noexcept nogil:
    """The sync under way is complete: its bytes are on the platter."""
    cdef File *f
    cdef uint64_t i
    if d.flying < 0:
        return
    f = &d.files[d.flying]
    d.flying = -1
    for i in range(f.flight_low, f.flight_high):
        if f.sectors[i] & FLYING:
            memcpy(f.platter + i * SECTOR, f.flight + i * SECTOR, SECTOR)
            f.sectors[i] &= ~FLYING
    if f.flight_size > f.synced_size or f.size == f.flight_size:
        f.synced_size = f.flight_size
    if d.late >= 0:                             # who waited for the sync goes on
        f = &d.files[d.late]
        d.late = -1
        memcpy(f.cache + d.late_at, d.late_bytes, d.late_size)
        dirty(f, d.late_at, d.late_at + d.late_size)


cdef void take_off(State *d, int file) noexcept nogil:
    """A sync begins: what is dirty now is on its way."""
    cdef File *f = &d.files[file]
    cdef uint64_t i
    land(d)
    for i in range(f.low, f.high):
        if f.sectors[i] == DIRTY:
            memcpy(f.flight + i * SECTOR, f.cache + i * SECTOR, SECTOR)
            f.sectors[i] = FLYING
    f.flight_low, f.flight_high, f.flight_size = f.low, f.high, f.size
    f.low, f.high = d.capacity // SECTOR, 0
    d.flying = file


cdef uint64_t clock_us(const Clock *c) noexcept nogil:
    cdef int64_t now
    if c.base_us == NULL:
        return c.offset_us
    now = <int64_t>c.base_us[0]
    return c.offset_us + <uint64_t>(now + now // 1000000 * c.drift_ppm
                                    + now % 1000000 * c.drift_ppm // 1000000)


cdef int arm(State *d, int call, uint64_t nth, int error, uint64_t keep) noexcept nogil:
    """The nth call of this kind from now on fails, or stops after `keep` bytes. -1: too many."""
    cdef Fault *fault
    if d.fault_count == FAULTS:
        return -1
    fault = &d.faults[d.fault_count]
    fault.call = call
    fault.at = d.calls[call] + nth
    fault.error = error
    fault.keep = keep
    d.fault_count += 1
    return 0


# ------------------------------------------------------------------------------------- crashes
cdef void forget_life(State *d) noexcept nogil:
    cdef int i
    d.late = -1
    land(d)
    d.hold = False
    for i in range(FILES):
        d.files[i].handles = 0
    for i in range(HANDLES):
        d.handles[i].file = -1
    d.life = (d.life + 1) % (1 << 20)
    d.fault_count = 0
    release(d)


cdef bint keeps(State *d) noexcept nogil:
    return not d.forgets and draw(d) & 1


cdef void cut_file(State *d, File *f) noexcept nogil:
    """Of each sector one of the versions that it had since it was last synced."""
    cdef uint64_t i, low = f.low, high = f.high
    cdef char *from_
    if f.flight_high and low > f.flight_low:
        low = f.flight_low
    high = max(high, f.flight_high)
    for i in range(low, high):
        from_ = f.platter
        if f.sectors[i] & FLYING and keeps(d):
            from_ = f.flight
        if f.sectors[i] & DIRTY and keeps(d):
            from_ = f.cache
        if from_ != f.platter:
            memcpy(f.platter + i * SECTOR, from_ + i * SECTOR, SECTOR)
        f.sectors[i] = CLEAN
    if f.size != f.synced_size and keeps(d):
        f.synced_size = f.size
    f.size = f.synced_size
    f.low, f.high = d.capacity // SECTOR, 0
    f.flight_low = f.flight_high = 0
    if f.extent > f.size:
        memset(f.platter + f.size, 0, f.extent - f.size)
    memcpy(f.cache, f.platter, f.extent)


cdef void cut_power(State *d) noexcept nogil:
    cdef int i
    d.flying = -1
    for i in range(d.change_count):
        if keeps(d):
            name_made(d, d.changes[i].path).synced_file = d.changes[i].file
    d.change_count = 0
    for i in range(d.name_count):
        d.names[i].file = d.names[i].synced_file
    for i in range(FILES):
        if d.files[i].used:
            cut_file(d, &d.files[i])
    forget_life(d)
