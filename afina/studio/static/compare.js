// The page "compare".
import { element, getJSON } from "./api.js";

void [element, getJSON];
