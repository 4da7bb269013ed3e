// Elements by atomic number; index 0 is a placeholder.

export const SYMBOLS = (
  "X H He Li Be B C N O F Ne Na Mg Al Si P S Cl Ar K Ca Sc Ti V Cr Mn Fe Co Ni Cu Zn Ga Ge As Se Br Kr Rb Sr Y " +
  "Zr Nb Mo Tc Ru Rh Pd Ag Cd In Sn Sb Te I Xe Cs Ba La Ce Pr Nd Pm Sm Eu Gd Tb Dy Ho Er Tm Yb Lu Hf Ta W Re Os " +
  "Ir Pt Au Hg Tl Pb Bi Po At Rn Fr Ra Ac Th Pa U Np Pu Am Cm Bk Cf Es Fm Md No Lr Rf Db Sg Bh Hs Mt Ds Rg Cn " +
  "Nh Fl Mc Lv Ts Og"
).split(" ");

export const NAMES = (
  "Placeholder Hydrogen Helium Lithium Beryllium Boron Carbon Nitrogen Oxygen Fluorine Neon Sodium Magnesium " +
  "Aluminium Silicon Phosphorus Sulfur Chlorine Argon Potassium Calcium Scandium Titanium Vanadium Chromium " +
  "Manganese Iron Cobalt Nickel Copper Zinc Gallium Germanium Arsenic Selenium Bromine Krypton Rubidium " +
  "Strontium Yttrium Zirconium Niobium Molybdenum Technetium Ruthenium Rhodium Palladium Silver Cadmium Indium " +
  "Tin Antimony Tellurium Iodine Xenon Caesium Barium Lanthanum Cerium Praseodymium Neodymium Promethium " +
  "Samarium Europium Gadolinium Terbium Dysprosium Holmium Erbium Thulium Ytterbium Lutetium Hafnium Tantalum " +
  "Tungsten Rhenium Osmium Iridium Platinum Gold Mercury Thallium Lead Bismuth Polonium Astatine Radon Francium " +
  "Radium Actinium Thorium Protactinium Uranium Neptunium Plutonium Americium Curium Berkelium Californium " +
  "Einsteinium Fermium Mendelevium Nobelium Lawrencium Rutherfordium Dubnium Seaborgium Bohrium Hassium " +
  "Meitnerium Darmstadtium Roentgenium Copernicium Nihonium Flerovium Moscovium Livermorium Tennessine " +
  "Oganesson"
).split(" ");

/** Covalent radii in Å up to Cm (Cordero et al., Dalton Trans. 2008, 2832). */
export const RADII_ANG = [
  0.2, 0.31, 0.28, 1.28, 0.96, 0.84, 0.76, 0.71, 0.66, 0.57, 0.58, 1.66, 1.41, 1.21, 1.11, 1.07, 1.05, 1.02,
  1.06, 2.03, 1.76, 1.7, 1.6, 1.53, 1.39, 1.39, 1.32, 1.26, 1.24, 1.32, 1.22, 1.22, 1.2, 1.19, 1.2, 1.2, 1.16,
  2.2, 1.95, 1.9, 1.75, 1.64, 1.54, 1.47, 1.46, 1.42, 1.39, 1.45, 1.44, 1.42, 1.39, 1.39, 1.38, 1.39, 1.4,
  2.44, 2.15, 2.07, 2.04, 2.03, 2.01, 1.99, 1.98, 1.98, 1.96, 1.94, 1.92, 1.92, 1.89, 1.9, 1.87, 1.87, 1.75,
  1.7, 1.62, 1.51, 1.44, 1.41, 1.36, 1.36, 1.32, 1.45, 1.46, 1.48, 1.4, 1.5, 1.5, 2.6, 2.21, 2.15, 2.06, 2,
  1.96, 1.9, 1.87, 1.8, 1.69,
];

export const NUMBERS = new Map(SYMBOLS.map((symbol, number) => [symbol, number]));

export function radiusAng(number) {
  return RADII_ANG[number] ?? 1.6;
}

/** Row and column (from 1) of an element in the long table; the f block stands below, in rows 9 and 10. */
export function placeInTable(number) {
  if (number === 1) return [1, 1];
  if (number === 2) return [1, 18];
  if (number <= 10) return [2, number <= 4 ? number - 2 : number + 8];
  if (number <= 18) return [3, number <= 12 ? number - 10 : number];
  if (number <= 36) return [4, number - 18];
  if (number <= 54) return [5, number - 36];
  if (number >= 57 && number <= 71) return [9, number - 54];
  if (number >= 89 && number <= 103) return [10, number - 86];
  if (number <= 86) return [6, number <= 56 ? number - 54 : number - 68];
  return [7, number <= 88 ? number - 86 : number - 100];
}

/** Formula in Hill order, as [symbol, count] pairs. */
export function formulaParts(numbers) {
  const counts = new Map();
  for (const z of numbers) counts.set(SYMBOLS[z], (counts.get(SYMBOLS[z]) ?? 0) + 1);
  const symbols = [...counts.keys()].sort();
  const hill = counts.has("C") ? ["C", "H"].filter((s) => counts.has(s)) : [];
  return [...hill, ...symbols.filter((s) => !hill.includes(s))].map((s) => [s, counts.get(s)]);
}

export function formula(numbers) {
  return formulaParts(numbers).map(([symbol, n]) => symbol + (n > 1 ? n : "")).join("");
}
