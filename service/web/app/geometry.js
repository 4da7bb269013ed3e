// Cells, periodic images, bonds and measurements. Positions are flat arrays of x, y, z in Å; a cell is three rows.
import { radiusAng } from "./elements.js";

const FACE = 0.02; // fractional: atoms so near a face of the cell are shown on the opposite face too
const STRETCH = 1.2; // of the sum of covalent radii
const METALS_FROM = [3, 11, 19, 37, 55, 87];
const NOT_METALS = new Set([1, 2, 5, 6, 7, 8, 9, 10, 14, 15, 16, 17, 18, 32, 33, 34, 35, 36, 51, 52, 53, 54, 85, 86]);

export function isMetal(number) {
  return number >= METALS_FROM[0] && !NOT_METALS.has(number);
}

export const dot = (a, b) => a[0] * b[0] + a[1] * b[1] + a[2] * b[2];
export const cross = (a, b) => [a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0]];
export const minus = (a, b) => [a[0] - b[0], a[1] - b[1], a[2] - b[2]];
export const norm = (a) => Math.hypot(a[0], a[1], a[2]);
const degrees = (radians) => (radians * 180) / Math.PI;

/** Lengths in Å, angles in degrees and volume in Å³ of a cell. */
export function cellParameters([a, b, c]) {
  const angle = (u, v) => degrees(Math.acos(Math.max(-1, Math.min(1, dot(u, v) / (norm(u) * norm(v))))));
  return {
    a: norm(a), b: norm(b), c: norm(c),
    alpha: angle(b, c), beta: angle(a, c), gamma: angle(a, b),
    volume: Math.abs(dot(a, cross(b, c))),
  };
}

/** Rows of the inverse: fractional coordinate i of r is dot(rows[i], r). */
export function reciprocal([a, b, c]) {
  const volume = dot(a, cross(b, c));
  return [cross(b, c), cross(c, a), cross(a, b)].map((row) => row.map((x) => x / volume));
}

/**
 * Which atoms to draw: [atom, shift] with shift in whole cells. `repeats` (3) cells along the periodic directions, and
 * the atoms on faces of that box on the opposite face too if `faces`.
 */
export function imagesToDraw(positions, cell, pbc, repeats, faces) {
  const n = positions.length / 3;
  const out = [];
  if (!cell || !pbc.some(Boolean)) {
    for (let i = 0; i < n; i += 1) out.push([i, [0, 0, 0]]);
    return out;
  }
  const rows = reciprocal(cell);
  const counts = repeats.map((count, axis) => (pbc[axis] ? count : 1));
  for (let i = 0; i < n; i += 1) {
    const r = [positions[3 * i], positions[3 * i + 1], positions[3 * i + 2]];
    const shifts = rows.map((row, axis) => {
      const list = Array.from({ length: counts[axis] }, (_, k) => k);
      if (!pbc[axis] || !faces) return list;
      const f = dot(row, r);
      if (Math.abs(f) < FACE) list.push(counts[axis]);
      else if (Math.abs(f - 1) < FACE) list.unshift(-1);
      return list;
    });
    for (const x of shifts[0]) for (const y of shifts[1]) for (const z of shifts[2]) out.push([i, [x, y, z]]);
  }
  return out;
}

/** Bonds between drawn atoms, as pairs of indices, by covalent radii; none between two metals. */
export function bondsBetween(numbers, points) {
  const n = numbers.length;
  const radii = Array.from(numbers, radiusAng);
  const longest = 2 * STRETCH * Math.max(0.3, ...new Set(radii));
  const grid = new Map();
  const key = (x, y, z) => `${x},${y},${z}`;
  const place = (i) => [0, 1, 2].map((k) => Math.floor(points[3 * i + k] / longest));
  for (let i = 0; i < n; i += 1) {
    const where = key(...place(i));
    if (!grid.has(where)) grid.set(where, []);
    grid.get(where).push(i);
  }
  const bonds = [];
  for (let i = 0; i < n; i += 1) {
    const [cx, cy, cz] = place(i);
    for (let x = cx - 1; x <= cx + 1; x += 1)
      for (let y = cy - 1; y <= cy + 1; y += 1)
        for (let z = cz - 1; z <= cz + 1; z += 1)
          for (const j of grid.get(key(x, y, z)) ?? []) {
            if (j <= i || (isMetal(numbers[i]) && isMetal(numbers[j])) || (numbers[i] === 1 && numbers[j] === 1)) continue;
            const limit = STRETCH * (radii[i] + radii[j]);
            const dx = points[3 * i] - points[3 * j];
            const dy = points[3 * i + 1] - points[3 * j + 1];
            const dz = points[3 * i + 2] - points[3 * j + 2];
            const d2 = dx * dx + dy * dy + dz * dz;
            if (d2 < limit * limit && d2 > 0.01) bonds.push([i, j]);
          }
  }
  return bonds;
}

/** What two, three or four points measure: a distance in Å, an angle or a dihedral in degrees. */
export function measure(points) {
  if (points.length === 2) return { kind: "distance", value: norm(minus(points[0], points[1])), unit: "Å" };
  if (points.length === 3) {
    const [u, v] = [minus(points[0], points[1]), minus(points[2], points[1])];
    return { kind: "angle", value: degrees(Math.atan2(norm(cross(u, v)), dot(u, v))), unit: "°" };
  }
  if (points.length === 4) {
    const [b1, b2, b3] = [minus(points[1], points[0]), minus(points[2], points[1]), minus(points[3], points[2])];
    const [n1, n2] = [cross(b1, b2), cross(b2, b3)];
    const value = degrees(Math.atan2(dot(cross(n1, n2), b2) / (norm(b2) || 1), dot(n1, n2)));
    return { kind: "dihedral", value, unit: "°" };
  }
  return null;
}

/** Positions moved by whole cells so that they lie within it, along its periodic directions. */
export function wrapped(positions, cell, pbc) {
  const rows = reciprocal(cell);
  const out = Float32Array.from(positions);
  for (let i = 0; i < out.length; i += 3) {
    const r = [out[i], out[i + 1], out[i + 2]];
    rows.forEach((row, axis) => {
      const whole = pbc[axis] ? Math.floor(dot(row, r) + 1e-6) : 0;
      for (let k = 0; k < 3; k += 1) out[i + k] -= whole * cell[axis][k];
    });
  }
  return out;
}
