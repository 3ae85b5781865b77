// The page "plan".
import { element, getJSON } from "./api.js";

void [element, getJSON];
